"""Loss ranking: the rows that a victim finds hardest, or easiest, are suspicious."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from defenses.sanitize.dropping import check_dropping, dropped
from poisonbench.core.abilities import losses_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE


@dataclass(frozen=True, kw_only=True)
class LossRank:
    """Drop the rows with the largest losses under a victim that was trained on all rows, or those with the smallest.

    Source: the data filter of Wan, Wallace, Shen, Klein, "Poisoning Language Models During Instruction Tuning", ICML 2023, section 5: rows with a
    large loss under a model that was trained for a few epochs. Small losses are suspicious where poison is learned faster than other rows: Li et
    al., "Anti-Backdoor Learning", NeurIPS 2021.

    The loss is the objective of the recipe for each row alone: the cross-entropy of the label, or, for a language model, the mean cross-entropy of
    the words that it learns, so a long text is not suspicious for its length. Of a pair of responses only the chosen one counts. Victims that state no
    loss are asked for scores, and the loss is their cross-entropy. For the ranking of the rows that each epoch of a training uses, see `loss_trim`.

    Difference: the paper drops a share of the rows and shows the trade-off over it; here the share follows from the expected rate.

    Args:
        drop: "high" or "low" losses.
        epochs: passes of the victim over the rows, 1 or more; null: the whole recipe, which is the undefended victim.
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        margin: rows removed, as a multiple of expected_rate * N, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    drop: Literal["high", "low"]
    epochs: int | None
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    margin: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.drop not in ("high", "low"):
            raise ConfigError(f"defense.sanitize.drop={self.drop}: choose high or low")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"defense.sanitize.epochs={self.epochs}: give 1 or more, or null")
        check_dropping(self.expected_rate, self.margin)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row by its loss.

        Raises:
            ConfigError: all rows would be dropped.
        """
        victim = means.fit(data) if self.epochs is None else means.tune(None, data, epochs=self.epochs)
        losses_N = losses_of(victim, data).double()
        return dropped(losses_N if self.drop == "high" else -losses_N, self.expected_rate, self.margin)
