"""Base classes of learners without training steps, and of their victims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import Incompatible
from poisonbench.core.learner import Combine, Differentiable, Fitted, OneByOne, State, Step


@dataclass(frozen=True, kw_only=True)
class PlainLearner(OneByOne):
    """Base class of learners without training steps: a derived class writes `fit`, `restore` and `runtime`."""

    VERSION: ClassVar[int] = 1

    @property
    def stages(self) -> frozenset[str]:
        """The slots that need no training steps."""
        return frozenset({"attack.data", "defense.sanitize", "defense.train", "defense.screen"})

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        raise NotImplementedError

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse nothing."""

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this recipe: it learns nothing from other rows."""
        return self

    def with_epochs(self, epochs: int) -> Self:
        """Return this recipe: it has no epochs."""
        return self

    def with_step(self, step: Step) -> Self:
        """Refuse: there are no training steps.

        Raises:
            Incompatible: always.
        """
        raise Incompatible(f"{type(self).__name__} has no training steps, so {type(step).__name__} has nothing to act on; use a network, such as learner=small")


@dataclass(frozen=True, eq=False, kw_only=True)
class PlainVictim:
    """Base class of victims without gradients: a derived class writes `scores` and `state`, and `features` if it has some.

    Args:
        facts: facts about the training.
        history: states during the training; none.
    """

    facts: Mapping[str, object]
    history: Sequence[State] = ()

    @property
    def module(self) -> Differentiable | None:
        """None: there is no gradient."""
        return None

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32 scores."""
        raise NotImplementedError

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Refuse.

        Raises:
            Incompatible: always.
        """
        raise Incompatible(f"{type(self).__name__} has no features; choose an attack and a defense that need only scores")

    def state(self) -> State:
        """Return all that `Learner.restore` needs."""
        raise NotImplementedError

    def silenced(self, channels_D: Tensor) -> Self:
        """Refuse: there are no channels to prune.

        Raises:
            Incompatible: always.
        """
        raise Incompatible(f"{type(self).__name__} has no channels that can be pruned; use a convolutional net")
