"""Classical learners on scikit-learn: logistic regression, support vector machines and naive Bayes. Trees are in `poisonbench.learn.trees`.

scikit-learn finds the solution; a victim holds it as arrays and computes its scores from them, so no object of another library is stored.
Shape letters: N rows, M test rows, D columns, P classes with training rows, E functions (one for two classes, else P), K classes, S support vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar, Literal, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.convex import LinearModel, LogisticLoss, SquaredHinge
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Form
from poisonbench.core.learner import Combine, State, Trained, Victim
from poisonbench.core.plain import PlainLearner, PlainVictim
from poisonbench.core.rng import Key
from poisonbench.core.threads import one_thread
from poisonbench.forms.tokens import TEXTS
from poisonbench.learn.tables import Arrays, Table, preparation, prepared, tabled

SLICE = 1000  # test rows at a time
BELOW = 1e4  # a class without training rows scores this much below all others; a record refuses infinite scores


@dataclass(frozen=True, kw_only=True)
class Classical(PlainLearner):
    """Base class of the learners here.

    Columns of numbers are standardised with the mean and the deviation of the training rows: Hastie, Tibshirani and Friedman, "The Elements of
    Statistical Learning", 2nd edition, 3.4.1, because penalties and distances depend on units. Counts of words stay as they are, since rare words
    would weigh as much as common ones; words that no training row contains are left out, as a real filter has never seen them.
    A class without training rows gets the lowest score. With a single class nothing is solved, and it is always the answer.
    """

    VERSION: ClassVar[int] = 1

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Versions; everything runs on one thread of the CPU, so their number changes no bit."""
        return {"device": "cpu", **{name: version(name) for name in ("scikit-learn", "scipy", "numpy")}}

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> ClassicalVictim:
        """Solve for the arrays of a victim."""
        table = tabled(data.form, data.inputs)
        classes, places = np.unique(data.labels.numpy(), return_inverse=True)
        arrays: Arrays = {"classes": classes, **preparation(table)}
        if len(classes) > 1:
            with _one_thread():
                arrays = {**arrays, **self.solved(prepared(table, arrays), places, rng)}
        return ClassicalVictim(learner=self, form=data.form, arrays=arrays, kinds=data.num_classes, facts={"rows": len(data)})

    def solved(self, table_ND: Table, places_N: NDArray[np.int64], rng: Key) -> Arrays:
        """Return the solution for rows of the classes 0 to P - 1, each of which has a row; P is at least 2."""
        raise NotImplementedError

    def margins(self, arrays: Arrays, table_MD: Table) -> NDArray[np.float64]:
        """Return (M, P) scores."""
        raise NotImplementedError

    def linear(self, arrays: Arrays) -> LinearModel | None:
        """Return the convex problem that was solved for two classes, with its solution; None for recipes that have none."""
        return None

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> ClassicalVictim:
        """Rebuild a victim."""
        arrays = {name: value.numpy() for name, value in trained.state.items()}
        return ClassicalVictim(learner=self, form=like.form, arrays=arrays, kinds=like.num_classes, facts=trained.facts)

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Score each slice of inputs with all victims; its table is made once."""
        every = cast("Sequence[ClassicalVictim]", victims)
        for some in inputs.split(SLICE):
            table = tabled(every[0].form, some)
            yield torch.stack([victim.asked(table) for victim in every], 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassicalVictim(PlainVictim):
    """Arrays of a solution.

    Args:
        learner: the recipe.
        form: of the inputs.
        arrays: "classes" (P,) with training rows; how the columns are prepared; and the solution, if P is above 1.
        kinds: K.
        facts: number of training rows.
    """

    learner: Classical
    form: Form
    arrays: Arrays
    kinds: int
    facts: Mapping[str, object]

    def asked(self, table: Table) -> Tensor:
        """Return (M, K) float32 scores of the rows of a table."""
        classes = self.arrays["classes"].astype(np.int64)
        with _one_thread():
            known = self.learner.margins(self.arrays, prepared(table, self.arrays)) if len(classes) > 1 else np.zeros((table.shape[0], 1))
        scores = np.repeat(known.min(1, keepdims=True) - BELOW, self.kinds, axis=1)
        scores[:, classes] = known
        return torch.from_numpy(scores).float()

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32 scores."""
        return torch.cat([self.asked(tabled(self.form, some)) for some in inputs.split(SLICE)])

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D) float32, the standardised inputs; for words, the counts of the known ones divided by their Euclidean length.

        A classical model has no hidden layer. Filters that look for outliers or clusters among features look among the inputs instead, on
        the scale on which the model reads them.
        """
        table = prepared(tabled(self.form, inputs), self.arrays)
        if isinstance(table, np.ndarray):
            return torch.from_numpy(table).float()
        from sklearn.preprocessing import normalize

        return torch.from_numpy(normalize(table).astype(np.float32).toarray())

    def linear_model(self) -> LinearModel | None:
        """Return the linear model of two classes with columns of numbers; None for all others."""
        return self.learner.linear(self.arrays) if self.kinds == len(self.arrays["classes"]) == 2 and "mean" in self.arrays else None

    def state(self) -> State:
        """Return the arrays as tensors."""
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in self.arrays.items()}


@dataclass(frozen=True, kw_only=True)
class Logistic(Classical):
    """Logistic regression with a squared penalty; the softmax of its scores is the probability of each class.

    Source: Cox, "The Regression Analysis of Binary Sequences", JRSS B 1958; solved by scikit-learn's LogisticRegression (L-BFGS).

    Args:
        C: inverse weight of the penalty, above 0; a larger value fits the training rows more closely.
        iterations: most steps of the solver.
    """

    VERSION: ClassVar[int] = 1
    C: float
    iterations: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        check_positive(C=self.C, iterations=self.iterations)

    def solved(self, table_ND: Table, places_N: NDArray[np.int64], rng: Key) -> Arrays:
        """Return coefficients (E, D) and intercepts (E,)."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.C, max_iter=self.iterations).fit(table_ND, places_N)
        return {"coefficients": model.coef_, "intercepts": model.intercept_}

    def linear(self, arrays: Arrays) -> LinearModel:
        """Return the problem: scikit-learn does not penalise the intercept."""
        return LinearModel(**_line(arrays), loss=LogisticLoss(), C=self.C, bias_penalty=0.0)

    def margins(self, arrays: Arrays, table_MD: Table) -> NDArray[np.float64]:
        """Return (M, P) log-odds; of two classes, the first has 0."""
        found = _linear(arrays, table_MD)
        return found if found.shape[1] > 1 else np.hstack([np.zeros_like(found), found])


@dataclass(frozen=True, kw_only=True)
class Svm(Classical):
    """A support vector machine; with more than two classes, one machine for each class against all others.

    Source: Cortes and Vapnik, "Support-Vector Networks", Machine Learning 1995. "linear" is LIBLINEAR with the squared hinge loss (Fan et al., JMLR
    2008), as in Arp et al., "Drebin", NDSS 2014, the linear model that poisoning of malware classifiers is measured on. "rbf" is LIBSVM with a
    Gaussian kernel, as in Biggio, Nelson and Laskov, "Poisoning Attacks against Support Vector Machines", ICML 2012, and in Xiao, Xiao and Eckert,
    ECAI 2012; its width is scikit-learn's "scale", 1 / (D * variance).

    Args:
        kernel: "linear", which also reads words; or "rbf", for numbers and pictures, in time that grows with the square of the rows.
        C: weight of the training errors, above 0.
        iterations: most steps of the solver for "linear".
    """

    VERSION: ClassVar[int] = 1
    kernel: Literal["linear", "rbf"]
    C: float
    iterations: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        check_positive(C=self.C, iterations=self.iterations)

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse words with the Gaussian kernel.

        Raises:
            Incompatible: what to use instead.
        """
        super().check(data, combine)
        if self.kernel == "rbf" and not isinstance(tabled(data.form, data.inputs[:1]), np.ndarray):
            raise Incompatible("learner.kernel=rbf reads numbers and pictures, and the inputs are words; use learner.kernel=linear")

    def solved(self, table_ND: Table, places_N: NDArray[np.int64], rng: Key) -> Arrays:
        """Return coefficients (E, D), or support vectors (S, D) with weights (E, S) and the kernel's width; and intercepts (E,)."""
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.svm import SVC, LinearSVC

        if self.kernel == "linear":
            line = LinearSVC(C=self.C, max_iter=self.iterations, random_state=rng.seed % 2**32).fit(table_ND, places_N)
            return {"coefficients": line.coef_, "intercepts": line.intercept_}
        assert isinstance(table_ND, np.ndarray), "check refuses words"
        gamma = 1 / (table_ND.shape[1] * (table_ND.var() or 1.0))
        machines = OneVsRestClassifier(SVC(C=self.C, gamma=gamma)).fit(table_ND, places_N).estimators_
        weights = np.zeros((len(machines), len(table_ND)))
        for place, machine in enumerate(machines):
            weights[place, machine.support_] = machine.dual_coef_[0]
        support = weights.any(0)
        intercepts = np.concatenate([machine.intercept_ for machine in machines])
        return {"vectors": table_ND[support], "weights": weights[:, support], "intercepts": intercepts, "gamma": np.array([gamma])}

    def linear(self, arrays: Arrays) -> LinearModel | None:
        """Return the problem of the linear kernel: LIBLINEAR penalises the intercept and counts each squared hinge loss once, as C does."""
        return LinearModel(**_line(arrays), loss=SquaredHinge(), C=self.C, bias_penalty=1.0) if self.kernel == "linear" else None

    def margins(self, arrays: Arrays, table_MD: Table) -> NDArray[np.float64]:
        """Return (M, P) signed margins; of two classes, the first has the negative of the second."""
        if self.kernel == "linear":
            found = _linear(arrays, table_MD)
        else:
            from sklearn.metrics.pairwise import rbf_kernel

            found = rbf_kernel(table_MD, arrays["vectors"], gamma=float(arrays["gamma"][0])) @ arrays["weights"].T + arrays["intercepts"]
        return found if found.shape[1] > 1 else np.hstack([-found, found])


@dataclass(frozen=True, kw_only=True)
class NaiveBayes(Classical):
    """Multinomial naive Bayes on counts of words; its scores are the logarithms of the probabilities of the classes.

    Source: McCallum and Nigam, "A Comparison of Event Models for Naive Bayes Text Classification", AAAI workshop 1998; scikit-learn's MultinomialNB.

    Difference: the vocabulary is that of the training rows, so a word that no training row contains changes no score.

    Args:
        alpha: count that is added to every word of every class, above 0 (Laplace: 1).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    alpha: float

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        check_positive(alpha=self.alpha)

    def solved(self, table_ND: Table, places_N: NDArray[np.int64], rng: Key) -> Arrays:
        """Return log-probabilities of words (P, D) and of classes (P,)."""
        from sklearn.naive_bayes import MultinomialNB

        model = MultinomialNB(alpha=self.alpha).fit(table_ND, places_N)
        return {"coefficients": model.feature_log_prob_, "intercepts": model.class_log_prior_}

    def margins(self, arrays: Arrays, table_MD: Table) -> NDArray[np.float64]:
        """Return (M, P) log-probabilities."""
        from scipy.special import log_softmax

        found: NDArray[np.float64] = log_softmax(_linear(arrays, table_MD), axis=1)
        return found


def _linear(arrays: Arrays, table_MD: Table) -> NDArray[np.float64]:
    found: NDArray[np.float64] = table_MD @ arrays["coefficients"].T + arrays["intercepts"]
    return found


class _Line(TypedDict):
    weights: Tensor
    bias: float
    mean: Tensor
    scale: Tensor


def _line(arrays: Arrays) -> _Line:
    return _Line(
        weights=torch.from_numpy(arrays["coefficients"][0]),
        bias=float(arrays["intercepts"][0]),
        mean=torch.from_numpy(arrays["mean"]),
        scale=torch.from_numpy(arrays["scale"]),
    )


def check_positive(**values: float) -> None:
    """Refuse a field that is not above 0.

    Raises:
        ConfigError: the first such field.
    """
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"learner.{name}={value}: give a number above 0")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run a block on one thread, without warnings that a solver stopped at its most steps: the result is a victim like any other."""
    from sklearn.exceptions import ConvergenceWarning

    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
