"""PoisonedRAG: passages that begin with the question and go on with a claim.

Shape letters: T targets, L places of a text, n passages of a target, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from attacks.retrieval.asked import encoder
from attacks.retrieval.hotflip import Draft, HotFlip, towards
from attacks.retrieval.writing import Aim, claims, whole, written
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import PADDING, TEXTS


@dataclass(frozen=True, kw_only=True)
class PoisonedRag:
    """Put passages into the index that are found for a target question and state a wrong answer to it.

    Source: Zou, Geng, Wang, Jia, "PoisonedRAG: Knowledge Corruption Attacks to Retrieval-Augmented Generation of Large Language Models", USENIX
    Security 2025. A passage has two parts: S, so that it is found, and I, so that it is believed, a text that states the wished answer. In the black-box
    setting S is the question itself. In the white-box setting the attacker knows the retriever: S starts as the question, and HotFlip exchanges its words
    so that the similarity of the whole passage to the question grows. Each target has the same number of passages, each with its own I; the paper has 5.

    Differences: the paper asks a language model for the texts I, and repeats this until the model gives the wished answer from I alone. Here they come
    from the task (`task.claims`), and no victim is asked whether it believes them. The paper puts a full stop between S and I. It counts an answer of a
    language model as a success if the wished words are in it; here the victim chooses among candidates.

    Args:
        parts: "both"; "retrieval", S alone, which is found and states nothing; or "generation", I alone, which is found only by its own words.
        white_box: whether S is optimised with the gradient of the surrogate's encoder (`threat.surrogate`), which must have one.
        steps: words taken in the white-box setting, 0 or more (paper: 30).
        candidates: words for which the similarity is computed in each step, 1 or more (paper: 100).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    parts: Literal["both", "retrieval", "generation"]
    white_box: bool
    steps: int
    candidates: int

    def __post_init__(self) -> None:
        """Check that the numbers are in range and that there is something to optimise."""
        if self.white_box and self.parts == "generation":
            raise ConfigError('attack.data.white_box=true optimises S, and parts="generation" has none; set attack.data.parts=both')
        self.search()

    def search(self) -> HotFlip:
        """Return how S is optimised.

        Raises:
            ConfigError: a number that is out of range.
        """
        return HotFlip(steps=self.steps, candidates=self.candidates)

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many passages for each target as the budget allows.

        Raises:
            ConfigError: as `write`, or a budget of fewer passages than targets.
            Incompatible: the test rows are no questions with wished answers.
        """
        return written(self, known, rng)

    def write(self, known: Known, aim: Aim, count: int, rng: Key) -> Tensor:
        """Return (T, n, L), the passages of each target.

        Raises:
            ConfigError: too few texts that state the wished answer, a passage that is longer than a row, or a surrogate without gradients.
        """
        questions = aim.targets.inputs[:, None].expand(-1, count, -1).contiguous()
        found = () if self.parts == "generation" else (questions,)
        believed = () if self.parts == "retrieval" else (claims(aim, count),)
        texts = whole(*found, *believed)
        return self.optimised(known, aim.targets, texts, rng) if self.white_box and texts.numel() else texts

    def optimised(self, known: Known, targets: Dataset, texts: Tensor, rng: Key) -> Tensor:
        """Return the passages (T, n, L) with other words in place of the question that each begins with.

        Raises:
            Incompatible: the surrogate's encoder has no gradients.
        """
        module = encoder(known)
        goals_TD, improved, search = module.features(targets.inputs).detach(), texts.clone(), self.search()
        for step in track(len(texts) * texts.shape[1], "passages"):
            target, number = divmod(step, texts.shape[1])
            free = (targets.inputs[target] != PADDING).nonzero()[:, 0][None]
            stream = rng.child(f"{int(targets.ids[target])}/{number}")
            draft = Draft(texts=texts[target, number][None], places=free)
            improved[target, number] = search.improved(draft, module, towards(goals_TD[target]), stream).texts[0]
        return improved
