"""PoisonedRAG: passages that begin with the question and go on with a claim.

Shape letters: T targets, L places of a text, n passages of a target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from attacks.retrieval.goals import Answered, each_of, with_passages
from attacks.retrieval.writing import Aim, aim_of, claims, whole
from poisonbench.core.attack import Poisoned
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class PoisonedRag:
    """Put passages into the index that are found for a target question and state a wrong answer to it.

    Source: Zou, Geng, Wang, Jia, "PoisonedRAG: Knowledge Corruption Attacks to Retrieval-Augmented Generation of Large Language Models", USENIX
    Security 2025, in the black-box setting. A passage has two parts: S, so that it is found, is the question itself; I, so that it is believed, is a text
    that states the wished answer. Each target has the same number of passages, each with its own I; the paper has 5.

    Differences: the paper asks a language model for the texts I, and repeats this until the model gives the wished answer from I alone. Here
    they come from the task (`task.claims`), and no victim is asked whether it believes them. The paper counts an answer of a language model as a success
    if the wished words are in it; here the victim chooses among candidates.

    Args:
        parts: "both"; "retrieval", S alone, which is found and states nothing; or "generation", I alone, which is found only by its own words.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    parts: Literal["both", "retrieval", "generation"]

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many passages for each target as the budget allows.

        Raises:
            ConfigError: as `write`, or a budget of fewer passages than targets.
            Incompatible: the test rows are no questions with wished answers.
        """
        aim = aim_of(known)
        texts = self.write(known, aim, each_of(known), rng)
        return with_passages(known, texts.flatten(0, 1), Answered(ids=aim.targets.ids, wish=aim.wish, texts=texts))

    def write(self, known: Known, aim: Aim, count: int, rng: Key) -> Tensor:
        """Return (T, n, L), the passages of each target.

        Raises:
            ConfigError: too few texts that state the wished answer, or a passage that is longer than a row.
        """
        questions = aim.targets.inputs[:, None].expand(-1, count, -1)
        if self.parts == "retrieval":
            return questions.contiguous()
        return claims(aim, count) if self.parts == "generation" else whole(questions, claims(aim, count))
