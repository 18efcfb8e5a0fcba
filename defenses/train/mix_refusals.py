"""Refusals mixed in: trusted refusals join the fine-tuning, so that it does not undo the safety training.

Shape letters: N rows, T trusted rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Around, Combine, Learner, Trained, Victim
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGE, number_of
from poisonbench.forms.answers import refused
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class MixRefusals:
    """Add trusted prompts that are refused, with their refusals, to the rows of one stage.

    Source: Bianchi, Suzgun, Attanasio, Rottger, Jurafsky, Hashimoto, Zou, "Safety-Tuned LLaMAs: Lessons From Improving the Safety of Large Language
    Models that Follow Instructions", ICLR 2024: a few hundred safe examples among the instructions make a model safer. Yang et al., "Shadow
    Alignment", 2023, is what the rows act against.

    A trusted row is a refusal if its response is not the answer that its prompt asks for; the defender knows this of their own rows. The
    refusals that are added are drawn at random; if fewer are there than asked for, they are repeated. The other rows of the stage stay.

    Args:
        count: refusals that are added, 1 or more. Each is trained on as often as the other rows of the stage.
        stage: the stage that they join, such as "finetuning".
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    COLUMNS: ClassVar[tuple[str, ...]] = ("response", "direct", STAGE)
    count: int
    stage: str

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        number_of(self.stage, "defense.train.stage")
        if self.count < 1:
            raise ConfigError(f"defense.train.count={self.count}: give 1 or more")

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner that trains on more rows."""
        return Mixed(member=learner, recipe=self)


@dataclass(frozen=True, kw_only=True)
class Mixed(Around):
    """The learner that adds refusals to the rows.

    Source: Bianchi et al., ICLR 2024.

    Args:
        member: the recipe that trains.
        recipe: the defense.
    """

    VERSION: ClassVar[int] = 1
    recipe: MixRefusals

    @property
    def stages(self) -> frozenset[str]:
        """The member's slots; no certificate, which would be about other rows."""
        return self.member.stages - {"defense.certify"}

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that there are refusals, and that the member accepts all rows.

        Raises:
            ConfigError: no trusted refusal.
        """
        self.member.check(self.added(data, combine, Key.root(0)), combine)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Train the member on all rows."""
        return self.member.fit(self.added(data, combine, rng.child("refusals")), combine, rng, start)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild the member's victim."""
        return self.member.restore(trained, like, combine)

    def added(self, data: Dataset, combine: Combine, rng: Key) -> Dataset:
        """Return the rows, followed by the refusals with ids of their own.

        Raises:
            ConfigError: no trusted refusal.
        """
        found = refused(combine.trusted).nonzero()[:, 0]
        if not len(found):
            raise ConfigError(
                "defense=mix_refusals needs trusted refusals, and there are none; use a task with a safety stage, such as task=world, and task.trusted above 0"
            )
        count = self.recipe.count
        order = found[rng.per_row(combine.trusted.ids[found])[:, 0].argsort(stable=True)]
        chosen = combine.trusted.take(order.repeat(-(-count // len(order)))[:count])
        ids = int(data.ids.max()) + 1 + torch.arange(count)
        stage = torch.full((count,), number_of(self.recipe.stage, "defense.train.stage"))
        return data.append(chosen.with_columns(chosen.columns | {"ids": ids, STAGE: stage}))
