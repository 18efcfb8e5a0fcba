"""A loss of preferences that allows for swapped pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Moment, Objective, PlainStep, Plan, Tolerant
from poisonbench.forms.tokens import TEXTS

ACTED = "_robust_preference_acted"  # attribute of the module: whether the objective was one of preferences


@dataclass(frozen=True, kw_only=True)
class RobustPreferenceStep(PlainStep):
    """Train on preferences with the loss that is right on average if a known share of the pairs is swapped.

    Source: Ray Chowdhury, Kini, Natarajan, "Provably Robust DPO: Aligning Language Models with Noisy Feedback", ICML 2024. The loss is that of
    `poisonbench.learn.objectives.Preference` with this noise. It changes the preference stage alone. A run whose rows have no pairs of responses is
    skipped. A record without the fact "preference_noise" is one of a learner that minimises something else, on which this step has no effect.

    The proof is for pairs that are swapped at random, each with the same probability. An attacker who chooses the pairs, or marks them with a
    trigger, is not covered.

    Args:
        noise: assumed share of swapped pairs, in [0, 0.5); 0 is DPO. It is a guess: a record at the true rate shows what knowing it would give.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    COLUMNS: ClassVar[tuple[str, ...]] = ("response", "rejected")
    noise: float

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if not 0 <= self.noise < 0.5:
            raise ConfigError(f"defense.train.step.noise={self.noise}: a share of swapped pairs lies in [0, 0.5), such as 0.2")

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Start as a step that had no effect."""
        setattr(module, ACTED, False)

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective with this noise; that of other stages as it is."""
        if not isinstance(objective, Tolerant):
            return objective
        setattr(moment.module, ACTED, True)
        return objective.tolerating(self.noise)

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Return the noise if it was used."""
        acted = getattr(module, ACTED)
        delattr(module, ACTED)
        return {"preference_noise": self.noise} if acted else {}
