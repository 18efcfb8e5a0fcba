"""Ensembles of decision trees on scikit-learn.

Shape letters: N rows, M test rows, D columns, T trees, J nodes of all trees, P classes with training rows, E functions (one for two classes, else P).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from poisonbench.core.rng import Key
from poisonbench.forms.reals import NUMBERS
from poisonbench.learn.classical import Classical, check_positive
from poisonbench.learn.tables import Arrays, Table


@dataclass(frozen=True, kw_only=True)
class Trees(Classical):
    """Many decision trees: gradient boosting or a random forest.

    Source: "boosting" is scikit-learn's HistGradientBoostingClassifier, the algorithm of LightGBM (Ke et al., NeurIPS 2017), which the malware
    benchmark EMBER uses (Anderson and Roth, 2018) and on which Severi et al., USENIX Security 2021, measure their backdoor. "forest" is Breiman,
    "Random Forests", Machine Learning 2001, by scikit-learn's RandomForestClassifier.

    Scores of "boosting" are log-odds, as those of logistic regression; scores of "forest" are mean probabilities.

    A tree with fewer than 2 * leaf_rows rows is a single leaf, so members of an ensemble on a few rows need a small leaf. Accuracy on 102 of 432
    training rows of breast_cancer, seeds 100-102:

    | model    | leaf_rows | one model | DPA of 10 parts | DPA of 40 parts |
    |----------|-----------|-----------|-----------------|-----------------|
    | boosting | 20        | 95.4      | 60.5            | 60.5            |
    | boosting | 5         | 95.8      | 92.2            | 73.5            |
    | boosting | 1         | 90.5      | 91.2            | 88.2            |
    | forest   | 2         | 95.4      | 90.5            | 87.6            |

    Args:
        model: "boosting" or "forest".
        trees: rounds of boosting, or trees of the forest; 1 or more.
        leaves: most leaves of a tree, 2 or more.
        leaf_rows: fewest rows in a leaf, 1 or more (LightGBM: 20).
        lr: learning rate of "boosting", above 0.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    model: Literal["boosting", "forest"]
    trees: int
    leaves: int
    leaf_rows: int
    lr: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        check_positive(trees=self.trees, leaves=self.leaves - 1, leaf_rows=self.leaf_rows, lr=self.lr)

    def solved(self, table_ND: Table, places_N: NDArray[np.int64], rng: Key) -> Arrays:
        """Return the trees: for each node its children, its column, its threshold and its value (J, E); the root of each tree; and a base (E,)."""
        return self._boosted(table_ND, places_N, rng.seed % 2**32) if self.model == "boosting" else self._forest(table_ND, places_N, rng.seed % 2**32)

    def _boosted(self, table_ND: Table, places_N: NDArray[np.int64], seed: int) -> Arrays:
        from sklearn.ensemble import HistGradientBoostingClassifier

        limits = {"max_iter": self.trees, "max_leaf_nodes": self.leaves, "min_samples_leaf": self.leaf_rows}
        model = HistGradientBoostingClassifier(learning_rate=self.lr, early_stopping=False, random_state=seed, **limits).fit(table_ND, places_N)
        base = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
        grown = [Tree.of_boosting(tree.nodes, kind, len(base)) for turn in model._predictors for kind, tree in enumerate(turn)]
        return {**joined(grown), "base": base}

    def _forest(self, table_ND: Table, places_N: NDArray[np.int64], seed: int) -> Arrays:
        from sklearn.ensemble import RandomForestClassifier

        limits = {"n_estimators": self.trees, "max_leaf_nodes": self.leaves, "min_samples_leaf": self.leaf_rows}
        model = RandomForestClassifier(random_state=seed, n_jobs=1, **limits).fit(table_ND, places_N)
        parts = [tree.tree_ for tree in model.estimators_]
        grown = [
            Tree(left=part.children_left, right=part.children_right, column=part.feature, threshold=part.threshold, value=part.value[:, 0]) for part in parts
        ]
        return {**joined(grown), "base": np.zeros(grown[0].value.shape[1])}

    def margins(self, arrays: Arrays, table_MD: Table) -> NDArray[np.float64]:
        """Return (M, P): log-odds, of two classes the first has 0; or mean probabilities."""
        assert isinstance(table_MD, np.ndarray), "trees read numbers"
        rows = table_MD.astype(np.float32) if self.model == "forest" else table_MD  # scikit-learn's forests compare in float32
        reached = leaves(arrays, rows)
        if self.model == "forest":
            found: NDArray[np.float64] = arrays["value"][reached].mean(1)
            return found
        total = arrays["base"] + arrays["value"][reached].sum(1)
        return total if total.shape[1] > 1 else np.hstack([np.zeros_like(total), total])


@dataclass(frozen=True, eq=False, kw_only=True)
class Tree:
    """One tree as arrays over its nodes; the first is the root.

    Args:
        left: the child for a value of at most the threshold; -1 at a leaf.
        right: the other child.
        column: the column that is compared.
        threshold: what it is compared with.
        value: (nodes, E), what a leaf answers.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    column: NDArray[np.int64]
    threshold: NDArray[np.float64]
    value: NDArray[np.float64]

    @classmethod
    def of_boosting(cls, nodes: NDArray[np.void], kind: int, functions: int) -> Tree:
        """Return the tree in the records of scikit-learn's boosting, which adds to function `kind` alone."""
        leaf = nodes["is_leaf"].astype(bool)
        value = np.zeros((len(nodes), functions))
        value[:, kind] = nodes["value"]
        left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
        return cls(left=left, right=right, column=nodes["feature_idx"].astype(np.int64), threshold=nodes["num_threshold"].astype(np.float64), value=value)


def joined(trees: Sequence[Tree]) -> Arrays:
    """Return the nodes of all trees one after the other; both children of a leaf are the leaf itself, and it compares column 0."""
    sizes = [len(tree.left) for tree in trees]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    own = np.arange(sum(sizes))
    at = np.repeat(roots, sizes)
    lefts = np.concatenate([tree.left for tree in trees])
    leaf = lefts < 0
    return {
        "roots": roots,
        "left": np.where(leaf, own, lefts + at),
        "right": np.where(leaf, own, np.concatenate([tree.right for tree in trees]) + at),
        "column": np.where(leaf, 0, np.concatenate([tree.column for tree in trees])),
        "threshold": np.where(leaf, 0.0, np.concatenate([tree.threshold for tree in trees])),
        "value": np.concatenate([tree.value for tree in trees]),
    }


def leaves(arrays: Arrays, table_MD: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return (M, T) int64, the leaf that each row reaches in each tree."""
    left, right, column, threshold = (arrays[name] for name in ("left", "right", "column", "threshold"))
    rows = np.arange(len(table_MD))[:, None]
    here = np.broadcast_to(arrays["roots"].astype(np.int64), (len(table_MD), len(arrays["roots"])))
    while True:
        there = np.where(table_MD[rows, column[here]] <= threshold[here], left[here], right[here])
        if (there == here).all():
            return there
        here = there
