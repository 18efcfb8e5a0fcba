"""The subpopulation attack: wrong answers for the test rows of one cluster, and right ones elsewhere.

Shape letters: N rows, M test rows, R poisons, P rows of the subpopulation, D features, d reduced features, K classes.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.injection import with_rows
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import NoGoal, Probe
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, eq=False, kw_only=True)
class Spoil(NoGoal):
    """Make the model answer chosen, unchanged test rows with any wrong label; C-Acc leaves them out, so it is the accuracy on the rest.

    Args:
        ids: (M,) int64 ids of the rows among the test rows.
    """

    VERSION: ClassVar[int] = 1
    ids: Tensor

    def probe(self, test: Dataset) -> Probe:
        """Return the chosen rows."""
        rows = torch.isin(test.ids, self.ids).nonzero()[:, 0]
        assert len(rows) == len(self.ids), "a target is a test row"
        hit = ~torch.nn.functional.one_hot(test.labels[rows], test.num_classes).bool()
        return Probe(rows=rows, inputs=test.inputs[rows], truth=test.labels[rows], hit=hit, targets=rows)


@dataclass(frozen=True, kw_only=True)
class Subpopulation:
    """Add copies of the rows of one subpopulation with one wrong label, so that the victim is wrong on it and right elsewhere.

    Source: Jagielski, Severi, Pousette Harger, Oprea, "Subpopulation Data Poisoning Attacks", CCS 2021: ClusterMatch with label flipping. The features of a
    surrogate are reduced by PCA and clustered by k-means; a cluster is a subpopulation. Poisons are rows of the subpopulation with another label.

    The subpopulation is drawn among the clusters with training rows that the attacker can write, and targets. The targets of the threat that fall into its
    cluster are probed: ASR is the share of them with a wrong answer, and C-Acc, which leaves targets out, is the accuracy on all other test rows
    (the collateral damage). Rows of the subpopulation that are no targets count there too; where the targets are few of many test rows, raise
    threat.targets. The ASR of clean training is the error there without poison.

    Differences: the paper samples subpopulations and poisons from auxiliary rows that are not trained on, and reports the clusters with the largest
    damage; here clusters and poisons come from the training rows, and one cluster is drawn. The flipped label is the wrong one that
    the surrogate finds most likely over the subpopulation; the rule is ours. Without threat.budget.inject, the rows of the subpopulation themselves are
    relabelled, as many as there are.

    Args:
        clusters: number of clusters, 2 or more (paper: 100).
        dims: dimensions after PCA, 1 or more (paper: 10).
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    clusters: int
    dims: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.clusters < 2 or self.dims < 1:
            raise ConfigError(f"attack.data.clusters={self.clusters}, attack.data.dims={self.dims}: give 2 clusters and 1 dimension or more")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with relabelled rows of one subpopulation, as many as the budget allows.

        Raises:
            ConfigError: no cluster has both rows that the attacker can write and targets, or too few rows to relabel.
        """
        rows, targets = known.rows, known.targets
        count = known.budget.rows(len(rows))
        victim = known.fit(rows)
        homes_N, homes_M = clustered(victim.features(rows.inputs), victim.features(targets.inputs), self, rng)
        open_ = torch.isin(torch.arange(self.clusters), homes_N[known.writable]) & torch.isin(torch.arange(self.clusters), homes_M)
        if not open_.any():
            raise ConfigError(f"none of {self.clusters} clusters has both rows to copy and targets; raise threat.targets, or lower attack.data.clusters")
        drawn = open_.nonzero()[:, 0][rng.child("cluster").pick(open_.nonzero()[:, 0], 1)]
        pool_P = (known.writable & (homes_N == drawn)).nonzero()[:, 0]
        goal = Spoil(ids=targets.ids[homes_M == drawn])
        label = likely_wrong(victim.scores(rows.inputs[pool_P]), rows.labels[pool_P])
        pool_P = pool_P[rows.labels[pool_P] != label]
        if known.budget.inject:
            senders = pool_P[(rng.child("rows").per_row(torch.arange(count))[:, 0] * len(pool_P)).long()]
            return dataclasses.replace(with_rows(known, senders, rows.inputs[senders], label, goal), origins=senders)
        chosen = pool_P[rng.child("rows").pick(rows.ids[pool_P], min(count, len(pool_P)))]
        return Poisoned(data=rows.edit(chosen, labels=torch.full((len(chosen),), label)), mask=known.mask(chosen), goal=goal)


def likely_wrong(scores_PK: Tensor, labels_P: Tensor) -> int:
    """Return the class with the highest mean probability among those that are not the most frequent label of the rows."""
    shares_K = scores_PK.softmax(1).mean(0)
    shares_K[torch.bincount(labels_P).argmax()] = -1
    return int(shares_K.argmax())


def clustered(features_ND: Tensor, others_MD: Tensor, attack: Subpopulation, rng: Key) -> tuple[Tensor, Tensor]:
    """Return (N,) and (M,) int64, the clusters of rows, found by PCA and k-means on the former, and the nearest clusters of the latter."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    seed = rng.child("clusters").seed % 2**32
    dims = min(attack.dims, *features_ND.shape)
    if attack.clusters > len(features_ND):
        raise ConfigError(f"attack.data.clusters={attack.clusters}: the task has {len(features_ND)} training rows; give fewer clusters")
    pca = PCA(dims, svd_solver="full").fit(features_ND.double().numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some clusters stay empty
        means = KMeans(attack.clusters, n_init=1, random_state=seed).fit(pca.transform(features_ND.double().numpy()))
    own, others = means.labels_, means.predict(pca.transform(others_MD.double().numpy()))
    return torch.from_numpy(own).long(), torch.from_numpy(others).long()
