"""Randomized smoothing over labels: least squares with randomly flipped training labels, solved in closed form.

Shape letters: N rows, M test rows, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Combine, Fitted, Learner, State, Step, Trained, Victim, fit_each, score_each
from poisonbench.core.rng import Key
from poisonbench.nets.fixed import FixedMap

MOST = 20_000  # training rows: the N x N matrix then has 3 GiB


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing:
    """Give the answer that least squares would give most often if every training label were redrawn with probability q.

    Source: Rosenfeld, Winston, Ravikumar and Kolter, "Certified Robustness to Label-Flipping Attacks via Randomized Smoothing", ICML 2020.

    A redrawn label is one of the other K - 1 classes. Scores are linear in the labels, so no sampling is needed: the expected scores give the answer,
    and a Chernoff bound gives its probability (`defenses/certify/label_smoothing.py`). The proof needs features that do not depend on labels; here
    they depend on no training row.

    Args:
        flip: q, in (0, (K - 1) / K).
        ridge: added to the diagonal, above 0; features have length 1.
        features: the feature map.
    """

    VERSION: ClassVar[int] = 1
    flip: float
    ridge: float
    features: FixedMap

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (0 < self.flip < 1 and self.ridge > 0):
            raise ConfigError(f"defense.train.flip={self.flip}, ridge={self.ridge}: give a chance in (0, 1), and a number above 0")

    def __call__(self, learner: Learner) -> Learner:
        """Return the smoothed learner; the learner of the run trains only the undefended victim."""
        return Smoothed(recipe=self, runtime=learner.runtime)


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """The learner that keeps the training rows; the victim solves for the influence of each label on each test row.

    Source: Rosenfeld et al., ICML 2020.

    Args:
        recipe: the defense.
        runtime: what else the bits of the result depend on.
    """

    VERSION: ClassVar[int] = 1
    MECHANISM: ClassVar[bool] = True
    recipe: LabelSmoothing
    runtime: Mapping[str, str | int]

    @property
    def stages(self) -> frozenset[str]:
        """The slots that need no training steps, and certificates."""
        return frozenset({"attack.data", "defense.sanitize", "defense.train", "defense.screen", "defense.certify"})

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check the number of rows, the probability and the inputs of the feature map.

        Raises:
            ConfigError: what to change.
        """
        if len(data) > MOST:
            raise ConfigError(f"defense=label_smoothing: {len(data)} training rows; at most {MOST}, set task.limit")
        if self.recipe.flip >= 1 - 1 / data.num_classes:
            raise ConfigError(
                f"defense.train.flip={self.recipe.flip}: with {data.num_classes} classes labels carry no information from {1 - 1 / data.num_classes:.3g} on"
            )
        self.recipe.features.check(tuple(data.inputs.shape[1:]))

    def with_public(self, public: Dataset, fit: Fitted | None) -> Smoothed:
        """Return this recipe: it does not use public rows."""
        return self

    def with_step(self, step: Step) -> Smoothed:
        """Raise an error: there are no training steps.

        Raises:
            Incompatible: always.
        """
        raise Incompatible(
            f"smoothing over labels solves in closed form, so {type(step).__name__} has no training step to act on; choose another defense or another attack"
        )

    def with_epochs(self, epochs: int) -> Smoothed:
        """Return this recipe: it has no epochs."""
        return self

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> SmoothedVictim:
        """Keep the rows; all equations are solved for given test rows."""
        facts = {"rows": len(data), "flip": self.recipe.flip}
        return SmoothedVictim(recipe=self.recipe, inputs=data.inputs, labels=data.labels, kinds=data.num_classes, facts=facts)

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Return one victim for each part."""
        return fit_each(self, parts, combine, rngs, start)

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Yield the scores of one victim after the other."""
        return score_each(victims, inputs)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> SmoothedVictim:
        """Rebuild a victim."""
        state = trained.state
        return SmoothedVictim(recipe=self.recipe, inputs=state["inputs"], labels=state["labels"], kinds=like.num_classes, facts=trained.facts)


@dataclass(frozen=True, eq=False, kw_only=True)
class SmoothedVictim:
    """Training rows with smoothed labels.

    Args:
        recipe: the defense.
        inputs: inputs of the training rows.
        labels: (N,) labels before smoothing.
        kinds: K.
        facts: number of rows and q.
        history: earlier states; none.
        module: None: there is no gradient.
    """

    recipe: LabelSmoothing
    inputs: Tensor
    labels: Tensor
    kinds: int
    facts: Mapping[str, object]
    history: Sequence[State] = ()
    module: None = None

    @cached_property
    def own(self) -> tuple[Tensor, Tensor]:
        """The (N, D) features and the (N, N) Cholesky factor of their regularised Gram matrix, float64."""
        features_ND = self.recipe.features(self.inputs).double()
        products = features_ND @ features_ND.T
        products.diagonal().add_(self.recipe.ridge)
        return features_ND, torch.linalg.cholesky(products)

    def influence(self, inputs: Tensor) -> Tensor:
        """Return (M, N) float64: a test row's score of a class is the sum of these over the training rows with that label."""
        features_ND, factor = self.own
        return torch.cholesky_solve(features_ND @ self.recipe.features(inputs).double().T, factor).T

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) expected scores."""
        one_hot = torch.nn.functional.one_hot(self.labels, self.kinds).double()
        spread = self.recipe.flip / (self.kinds - 1)
        return (self.influence(inputs) @ (one_hot * (1 - self.recipe.flip - spread) + spread)).float()

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D) features of the feature map."""
        return self.recipe.features(inputs)

    def state(self) -> State:
        """Return the rows and their labels."""
        return {"inputs": self.inputs.contiguous(), "labels": self.labels.contiguous()}

    def silenced(self, channels_D: Tensor) -> SmoothedVictim:
        """Raise an error: the feature map has no channels to prune.

        Raises:
            Incompatible: always.
        """
        raise Incompatible("a fixed feature map has no channels of its own to prune")
