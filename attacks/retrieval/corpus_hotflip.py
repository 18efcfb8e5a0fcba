"""Corpus poisoning: passages that are found for as many questions as possible.

Shape letters: Q past questions, L places of a text, W words of a passage, D features, R passages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.retrieval.asked import answering, asked, clusters, encoder, features, padded, silent
from attacks.retrieval.goals import Denied, with_passages
from attacks.retrieval.hotflip import Draft, HotFlip, towards
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Worded
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class CorpusHotflip:
    """Put passages into the index that are found for questions that the attacker has not seen, so that the right passages are not read.

    Source: Zhong, Huang, Wettig, Chen, "Poisoning Retrieval Corpora by Injecting Adversarial Passages", EMNLP 2023. Past questions are clustered by
    k-means of their embeddings, one cluster for each passage of the budget. HotFlip then changes the words of the passage so that its mean similarity to
    the questions of its cluster grows, which is the similarity to their mean. The encoder is that of the attacker's surrogate.

    Differences: the paper's past questions are the training questions of a data set, and it starts from a random passage; here the questions are those
    of the public rows, and "nearest" is ours. The paper counts a passage as found among the first 20; see the figures of the goal. A passage has no word
    of an answer to a past question, because the reader shall find no answer in it. Where there are fewer different questions than passages, the rest of
    the budget is not used.

    Args:
        length: W, words of a passage, 1 or more (paper: 50); a shorter text to start from is repeated.
        start: the public passage "nearest" to the mean of the questions, or a "random" one (paper).
        steps: words that HotFlip takes for each passage, 0 or more (paper: 5,000); 0 leaves the text as it is, the control.
        candidates: words that are tried in each step, 1 or more (paper: 100).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    length: int
    start: Literal["nearest", "random"]
    steps: int
    candidates: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.length < 1 or self.start not in ("nearest", "random"):
            raise ConfigError(f"attack.data: length={self.length}, start={self.start}; give 1 word or more, and nearest or random")
        HotFlip(steps=self.steps, candidates=self.candidates)  # checks them

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many passages as the budget allows.

        Raises:
            ConfigError: no past question, or a passage that is longer than a row.
            Incompatible: the task has no past questions, or the surrogate has no gradient in words.
        """
        count, length = known.budget.rows(len(known.rows)), known.rows.inputs.shape[1]
        questions = asked(known)
        texts = self.write(known, questions, count, rng) if count else torch.zeros(0, min(self.length, length), dtype=torch.int64)
        passages = padded(texts, length)
        return with_passages(known, passages, Denied(texts=passages))

    def write(self, known: Known, questions: Tensor, count: int, rng: Key) -> Tensor:
        """Return (R, W), one passage for each cluster of the questions (Q, L)."""
        module, banned = encoder(known), answering(known)
        places, passages = features(module, questions), silent(known.public, banned, self.length)
        if len(passages) == 0:
            raise ConfigError("no public passage has a word that answers no question; raise task.public")
        goals = [places[members].mean(0) for members in clusters(places, count, rng.child("clusters"))]
        starts = passages[self._first(module, passages, torch.stack(goals), rng.child("start"))]
        drafts = [Draft(texts=start[None], places=torch.arange(self.length)[None], banned=banned) for start in starts]
        search = HotFlip(steps=self.steps, candidates=self.candidates)
        return torch.cat(
            [search.improved(drafts[place], module, towards(goals[place]), rng.child(f"passage/{place}")).texts for place in track(len(drafts), "passages")]
        )

    def _first(self, module: Worded, passages_NW: Tensor, goals_RD: Tensor, rng: Key) -> Tensor:
        """Return (R,) int64, which public passage each passage starts from."""
        if self.start == "random":
            return torch.randint(len(passages_NW), (len(goals_RD),), generator=rng.torch())
        return (features(module, passages_NW) @ goals_RD.T).argmax(0)
