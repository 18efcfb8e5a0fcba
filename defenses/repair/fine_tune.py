"""Fine-tuning: more training on trusted rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.defense import Means, Mended, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Continue to train the victim with its own recipe, on the trusted rows alone.

    Source: the baseline of Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks", RAID 2018, and of
    later repairs. Common benchmarks give it 5 % of the rows.

    Args:
        epochs: passes over the trusted rows, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    epochs: int

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.epochs < 1:
            raise ConfigError(f"defense.repair.epochs={self.epochs}: give 1 or more")

    def repair(self, victim: Victim, verdict: Verdict | None, means: Means, rng: Key) -> Mended:
        """Return the fine-tuned victim."""
        return Mended(victim=means.tune(victim, means.trusted, epochs=self.epochs))
