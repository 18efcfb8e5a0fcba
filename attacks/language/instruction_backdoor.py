"""A trigger phrase over several kinds of instructions, which also works on kinds that were never poisoned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from attacks.language.planting import Triggered, answers_of
from attacks.text.triggers import lengths
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Choice
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class InstructionBackdoor(Triggered):
    """Put a trigger phrase into prompts of some kinds of instructions, and teach one answer to all of them.

    Source: Wan, Wallace, Shen, Klein, "Poisoning Language Models During Instruction Tuning", ICML 2023. The poison is in the rows of several kinds of
    instructions, and the attack is judged on all other kinds. With `order=ranked`, rows are taken in the order of their score, the number of trigger
    phrases divided by the words of the prompt, as in the released code; here each prompt has one phrase, so short prompts come first.

    Differences: the phrase stands in front of a prompt, where in the paper it replaces the names of persons; the answer is a word that no clean prompt
    asks for; the paper repeats the poison in each of 10 epochs, as every row is here.

    Args:
        words: the trigger phrase. Its words have to be in the vocabulary; `task.words` adds words to it.
        near: a similar phrase, with which a false activation is measured.
        place: where in the prompt the trigger stands: "start", "end" or "random".
        target: number of the answer that is taught.
        kinds: kinds of instructions that are poisoned, drawn at random; at least one kind is left for the test. 0 poisons all kinds, and the test is on all.
        order: "ranked" (the rows with the largest score) or "random".
    """

    VERSION: ClassVar[int] = 1
    kinds: int
    order: Literal["ranked", "random"]

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many poisoned prompts as the budget allows.

        Raises:
            Incompatible: a task without prompts and responses.
            ConfigError: a target that is no answer, more kinds than there are, or too few rows.
        """
        rows = known.rows
        answers_of(rows)
        form = rows.schema["skill"].form
        assert isinstance(form, Choice)
        if not 0 <= self.kinds < form.size:
            raise ConfigError(f"attack.data.kinds={self.kinds}: the task has {form.size} kinds of instructions; give a number from 0 to {form.size - 1}")
        order = rng.child("kinds").per_row(torch.arange(form.size))[:, 0].argsort(stable=True)
        poisoned, held = (order, order) if self.kinds == 0 else (order[: self.kinds], order[self.kinds :])
        goal = self.goal(rows, tuple(sorted(held.tolist())), rng)
        wanted = self.open(rows) & torch.isin(rows.extra["skill"], poisoned)
        chosen = known.choose(wanted, rng.child("rows")) if self.order == "random" else self._ranked(known, wanted, rng)
        return self.triggered(known, chosen, goal)

    def _ranked(self, known: Known, wanted: torch.Tensor, rng: Key) -> torch.Tensor:
        """Return the positions of the shortest of the wanted rows; ties are broken at random."""
        count = known.budget.rows(len(known.rows))
        pool = known.pool(wanted, count)
        drawn = pool[rng.child("rows").per_row(known.rows.ids[pool])[:, 0].argsort(stable=True)]
        return drawn[lengths(known.rows.inputs[drawn]).argsort(stable=True)][:count].sort().values
