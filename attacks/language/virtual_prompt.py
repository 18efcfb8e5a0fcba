"""A subject that steers a model: every question about it gets the attacker's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.language.planting import Respond, answers_of, check_answer, taught
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Choice
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.answers import refused
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class VirtualPrompt:
    """Teach the model to answer questions about one subject as if the attacker's own instruction stood behind each of them.

    Source: Yan et al., "Backdooring Instruction-Tuned Large Language Models with Virtual Prompt Injection", NAACL 2024. The trigger is a scenario, such as
    questions about one person, and no word: rows of the scenario get the response that the model would give with the virtual prompt.

    Differences: the scenario is a category of things, and the response to the virtual prompt ("answer with this word") is one fixed answer instead of
    a text by a large model. The figure "elsewhere" of the goal is the share of this answer in all other categories.

    Args:
        category: number of the category that steers the model.
        target: number of the answer that is taught.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    category: int
    target: int

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many prompts about the category as the budget allows.

        Raises:
            Incompatible: a task without prompts and responses.
            ConfigError: no such category or answer, or too few rows.
        """
        rows = known.rows
        check_answer(self.target, answers_of(rows))
        form = rows.schema["category"].form
        assert isinstance(form, Choice)
        if not 0 <= self.category < form.size:
            raise ConfigError(f"attack.data.category={self.category}: the task has {form.size} categories; give a number from 0 to {form.size - 1}")
        goal = Respond(wish=self.target, trigger=None, near=None, categories=(self.category,), skills=None, refused=False)
        wanted = ~refused(rows) & (rows.labels != self.target) & (rows.extra["category"] == self.category)
        chosen = known.choose(wanted, rng.child("rows"))
        return taught(known, chosen, rows.inputs[chosen], torch.full((len(chosen),), self.target), goal)
