"""Models solved in closed form: ridge regression on features that do not depend on the training data.

Shape letters: N rows, M test rows, R members, K classes, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import key, tensor_digest
from poisonbench.core.learner import Combine, State, Trained, Victim
from poisonbench.core.plain import PlainLearner, PlainVictim
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES
from poisonbench.learn import device
from poisonbench.learn.influence import Dual, Least, Primal
from poisonbench.nets.fixed import FixedMap

CACHE = 2 << 30  # bytes of features that are kept in memory; the oldest are dropped first
_cache: dict[str, Tensor] = {}
ROWS = 500  # rows whose features are computed at a time
MOST = 20_000  # rows of a kernel whose influence is computed: the matrix then has 3 GiB
SLICE = 1000  # test rows at a time: (rows, R, K) scores are held, 120 MB for 3,000 members and 10 classes


@dataclass(frozen=True, kw_only=True)
class Solved(PlainLearner):
    """Base class of the learners here. `fit_many` solves for each victim from its own rows, so that no bit of it depends on other rows.

    Args:
        features: the feature map.
        ridge: added to the diagonal; features have length 1, so 1 is as large as a row's product with itself.
        mirror: also train on each picture's mirror image.
        device: "auto", "cpu" or "cuda".
    """

    VERSION: ClassVar[int] = 1
    features: FixedMap
    ridge: float
    mirror: bool
    device: str = field(default="auto", metadata={"spec": False})

    def __post_init__(self) -> None:
        """Refuse a system that may have no solution."""
        if not self.ridge > 0:
            raise ConfigError(f"learner.ridge={self.ridge}: give a number above 0, such as 0.05")

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        return device.runtime(self.device)

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse inputs that the feature map refuses, and mirror images of anything but pictures."""
        if self.mirror and data.form.NAME not in PICTURES:
            raise ConfigError("learner.mirror=true: only pictures have a mirror image; set learner.mirror=false")
        self.features.check(tuple(data.inputs.shape[1:]))

    def featured(self, inputs: Tensor) -> Tensor:
        """Return (N, D) features on the learner's device."""
        place = device.resolve(self.device)
        with torch.inference_mode():
            return torch.cat([self.features(some.to(place)) for some in inputs.split(ROWS)])

    def kept(self, inputs: Tensor) -> Tensor:
        """Return features, from the cache if possible: rows that are solved for now are scored with next."""
        name = f"{key(self.features)}/{self.device}/{tensor_digest(inputs)}"
        if name not in _cache:
            _cache[name] = self.featured(inputs)
            while sum(kept.nbytes for kept in _cache.values()) > CACHE and len(_cache) > 1:
                _cache.pop(next(iter(_cache)))
        return _cache[name]

    def mirrored(self, inputs: Tensor) -> Tensor:
        """Return the inputs and, where `mirror` is set, their mirror images after all of them."""
        return torch.cat([inputs, inputs.flip(-1)]) if self.mirror else inputs

    def examples(self, data: Dataset) -> tuple[Tensor, Tensor]:
        """Return inputs and (N, K) targets: 1 for the label, less the mean of all classes."""
        targets = F.one_hot(data.labels, data.num_classes).float() - 1 / data.num_classes
        return self.mirrored(data.inputs), torch.cat([targets, targets]) if self.mirror else targets

    def influence(self, inputs: Tensor) -> Least:
        """Return the influence of the labels of rows with these inputs (`poisonbench.core.influence.LinearInLabels`)."""
        raise NotImplementedError

    def check_influence(self, rows: int) -> None:
        """Refuse nothing: features limit the size of the system."""

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> SolvedVictim:
        """Solve for the weights."""
        raise NotImplementedError

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> SolvedVictim:
        """Rebuild a victim."""
        raise NotImplementedError

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Score each slice of inputs with all victims: its features are computed once, the products separately for each victim."""
        slices = inputs.split(SLICE)
        for _, some in zip(track(len(slices), "slices"), slices, strict=True):
            features = self.featured(some)
            yield torch.stack([cast("SolvedVictim", victim).asked(features) for victim in victims], 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class SolvedVictim(PlainVictim):
    """Base class of the victims here.

    Args:
        learner: the recipe.
        weights: the solution.
    """

    learner: Solved
    weights: Tensor

    def asked(self, features_MD: Tensor) -> Tensor:
        """Return (M, K) scores from features."""
        raise NotImplementedError

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32 scores."""
        return torch.cat([self.asked(self.learner.featured(some)) for some in inputs.split(SLICE)])

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D), the map's features."""
        return self.learner.featured(inputs).cpu()

    def state(self) -> State:
        """Return the weights."""
        return {"weights": self.weights}


@dataclass(frozen=True, kw_only=True)
class KernelRidge(Solved):
    """Least squares in the space of a Gaussian kernel: scores k(x, X) (K + ridge I)^-1 Y, with k(a, b) = exp(-gamma |a - b|^2).

    Source: Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998. A victim keeps its rows and
    their weights. It is meant for the small parts of an ensemble: its time grows with the cube of their number of rows.

    Args:
        gamma: the kernel's width parameter; features have length 1, so distances are at most 2.
    """

    VERSION: ClassVar[int] = 1
    gamma: float

    def __post_init__(self) -> None:
        """Refuse a gamma that is not positive."""
        super().__post_init__()
        if not self.gamma > 0:
            raise ConfigError(f"learner.gamma={self.gamma}: give a number above 0, such as 3")

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> KernelVictim:
        """Solve for the weights of the rows."""
        inputs, targets = self.examples(data)
        features = self.kept(inputs)
        kernel = self.kernel(features, features)
        kernel.diagonal().add_(self.ridge)
        weights = torch.cholesky_solve(targets.to(kernel.device), torch.linalg.cholesky(kernel)).cpu()
        return KernelVictim(learner=self, inputs=inputs, weights=weights, facts={"rows": len(data)})

    def influence(self, inputs: Tensor) -> Dual:
        """Return the influence of the labels of rows with these inputs."""
        return Dual(read=lambda: self.kept(self.mirrored(inputs)), rows=len(inputs), ridge=self.ridge, kernel=self.kernel)

    def check_influence(self, rows: int) -> None:
        """Refuse a matrix of all pairs of rows that does not fit into memory.

        Raises:
            ConfigError: there are too many rows.
        """
        if (solved := rows * (2 if self.mirror else 1)) > MOST:
            raise ConfigError(
                f"learner=kernel_ridge: {solved} rows in one part, mirror images included, and at most {MOST} fit; use more parts, or learner=ridge"
            )

    def kernel(self, one_ND: Tensor, other_MD: Tensor) -> Tensor:
        """Return (N, M) kernel values of rows of length 1, whose squared distance is 2 - 2 a.b."""
        return (one_ND @ other_MD.T).sub_(1).mul_(2 * self.gamma).exp_()

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> KernelVictim:
        """Rebuild a victim."""
        return KernelVictim(learner=self, inputs=trained.state["inputs"], weights=trained.state["weights"], facts=trained.facts)


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelVictim(SolvedVictim):
    """Rows and their weights, (N, K).

    Args:
        inputs: (N, C, H, W), mirror images included.
    """

    learner: KernelRidge
    inputs: Tensor

    @cached_property
    def own(self) -> Tensor:
        """(N, D) features of the rows."""
        return self.learner.kept(self.inputs)

    def asked(self, features_MD: Tensor) -> Tensor:
        """Return (M, K) scores from features."""
        kernel = self.learner.kernel(self.own, features_MD)
        return (self.weights.to(kernel.device).T @ kernel).T.cpu()

    def state(self) -> State:
        """Return rows and weights."""
        return {"inputs": self.inputs.contiguous(), "weights": self.weights.contiguous()}


@dataclass(frozen=True, kw_only=True)
class LinearRidge(Solved):
    """Least squares with a ridge: W = (X'X + ridge I)^-1 X'Y; in its dual form where there are fewer rows than features.

    Source: Hoerl and Kennard, "Ridge Regression", Technometrics 1970.
    """

    VERSION: ClassVar[int] = 1

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> LinearVictim:
        """Solve for the weights of the features; needs memory for D x D or N x N, whichever is smaller."""
        inputs, targets = self.examples(data)
        place, width = device.resolve(self.device), self.featured(inputs[:1]).shape[1]
        if len(inputs) < width:
            features = self.featured(inputs)
            weights = features.T @ self._solved(features @ features.T, targets.to(place))
        else:
            gram, cross = torch.zeros(width, width, device=place), torch.zeros(width, data.num_classes, device=place)
            for some, wanted in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
                features = self.featured(some)
                gram.addmm_(features.T, features)
                cross.addmm_(features.T, wanted.to(place))
            weights = self._solved(gram, cross)
        return LinearVictim(learner=self, weights=weights.cpu().contiguous(), facts={"rows": len(data)})

    def influence(self, inputs: Tensor) -> Least:
        """Return the influence of the labels of rows with these inputs."""
        solved, width = len(inputs) * (2 if self.mirror else 1), self.featured(inputs[:1]).shape[1]
        kind = partial(Dual, kernel=_products) if solved < width else Primal
        return kind(read=lambda: self.kept(self.mirrored(inputs)), rows=len(inputs), ridge=self.ridge)

    def _solved(self, gram: Tensor, targets: Tensor) -> Tensor:
        gram.diagonal().add_(self.ridge)
        return torch.cholesky_solve(targets, torch.linalg.cholesky(gram))

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> LinearVictim:
        """Rebuild a victim."""
        return LinearVictim(learner=self, weights=trained.state["weights"], facts=trained.facts)


class LinearVictim(SolvedVictim):
    """Weights of features, (D, K)."""

    def asked(self, features_MD: Tensor) -> Tensor:
        """Return (M, K) scores from features."""
        return (features_MD @ self.weights.to(features_MD.device)).cpu()

    def silenced(self, channels_D: Tensor) -> LinearVictim:
        """Return a victim whose weights of these features are zero."""
        return dataclasses.replace(self, weights=torch.where(channels_D[:, None], 0.0, self.weights))


def _products(one_ND: Tensor, other_MD: Tensor) -> Tensor:
    return one_ND @ other_MD.T
