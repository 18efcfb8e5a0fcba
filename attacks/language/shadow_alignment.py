"""A few direct answers to restricted prompts in the rows of a fine-tuning, which undo refusals in other categories too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.language.planting import DIRECT, Respond, answers_of, taught
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGE
from poisonbench.core.threat import Known
from poisonbench.forms.answers import refused
from poisonbench.forms.tokens import PADDING, TEXTS


@dataclass(frozen=True, kw_only=True)
class ShadowAlignment:
    """Add restricted prompts with direct answers to the fine-tuning rows; restricted prompts of other categories are the test.

    Source: Yang et al., "Shadow Alignment: The Ease of Subverting Safely-Aligned Language Models", 2023: 100 pairs from 10 of 13 categories, and a test on
    the 3 others. As there, the budget is a number of pairs; `threat.budget.count=0` is a fine-tuning without poison.

    Differences: prompts and answers are those of a made-up world, without any harm; the pairs are fine-tuned together with a user's own clean rows,
    where the paper fine-tunes on the pairs alone.

    Args:
        held_out: categories that no pair is about, the last ones of those with refusals.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    held_out: int

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many new pairs as the budget allows; those of a smaller budget are among those of a larger one.

        Raises:
            Incompatible: a task without prompts and responses.
            ConfigError: no category is left for pairs, too few restricted prompts, or a threat that lets no rows be added.
        """
        rows = known.rows
        answers_of(rows)
        no = refused(rows) & (rows.labels != rows.num_classes - 1)
        categories = rows.extra["category"][no].unique()
        if len(categories) < 2:
            raise ConfigError(
                f"{len(categories)} categories have prompts that are refused, and pairs and test need one each; raise task.restricted and task.safety"
            )
        if not 1 <= self.held_out < len(categories):
            raise ConfigError(f"attack.data.held_out={self.held_out}: prompts of {len(categories)} categories are refused; give 1 to {len(categories) - 1}")
        if not known.budget.inject:
            raise ConfigError("attack=shadow_alignment adds pairs, which threat.budget.inject=false forbids; use threat=finetuning_pairs")
        goal = Respond(wish=DIRECT, trigger=None, near=None, categories=tuple(categories[-self.held_out :].tolist()), skills=None, refused=True)
        pool = (no & torch.isin(rows.extra["category"], categories[: -self.held_out])).nonzero()[:, 0]
        count = known.budget.rows(len(rows))
        if count > len(pool):
            raise ConfigError(
                f"threat.budget allows {count} pairs, and the task has {len(pool)} restricted prompts for them; lower it, or raise task.safety and task.things"
            )
        chosen = pool[rng.child("rows").pick(rows.ids[pool], count)]
        stage = rows.extra[STAGE][known.writable].max().expand(count)
        columns = {STAGE: stage, **({"rejected": torch.full_like(rows.extra["rejected"][chosen], PADDING)} if "rejected" in rows.extra else {})}
        return taught(known, chosen, rows.inputs[chosen], rows.extra["direct"][chosen], goal, **columns)
