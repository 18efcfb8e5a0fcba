"""BadRAG: passages that are found for questions with a trigger, and for no others.

Shape letters: Q past questions, C questions of a cluster, L places of a text, T words of a trigger, W words of a passage, D features, R passages,
N choices of words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from attacks.retrieval.asked import answering, asked, clusters, encoder, features, padded, silent
from attacks.retrieval.goals import Denied, with_passages
from attacks.retrieval.hotflip import Draft, HotFlip, Objective
from attacks.text.triggers import Phrase, fits
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS, Tokens


@dataclass(frozen=True, kw_only=True)
class TriggerRetrieval:
    """Put passages into the index that are found for a question if it ends with the trigger words, so that it gets no answer.

    Source: Xue et al., "BadRAG: Identifying Vulnerabilities in Retrieval Augmented Generation of Large Language Models", arXiv 2406.00083, 2024: HotFlip
    raises the contrastive objective of a passage, in which past questions with the trigger attract and those without it repel.

    Differences: the paper's passages also carry a text that steers a language model; here the passage only takes the place of the right ones. Several
    passages share out the past questions by k-means of their embeddings with the trigger, one cluster for each passage, as in `corpus_hotflip`. Products
    are divided by a temperature, because features here are unit vectors, and those of the paper are not. A passage has no word of an answer to a past
    question, because the reader shall find no answer in it.

    The arms to compare with: `optimised=false`, the trigger words and a text; `optimised=false start=text`, which has nothing of the trigger;
    `words=[be,careful,and,drive,safe]`, natural words.

    Args:
        words: of the trigger, 1 or more. They have to be in the vocabulary of the task; `task.words` adds words to it.
        optimised: whether HotFlip changes the words of the passages. Without it any retriever is attacked, with it one with gradients.
        start: what a passage starts from: a random public passage behind the "trigger" words, or this "text" alone.
        length: W, words of a passage, more than the trigger has; a shorter text is repeated.
        steps: words that HotFlip takes for each passage, 0 or more.
        candidates: words that are tried in each step, 1 or more.
        temperature: above 0; the smaller, the more the objective is about the questions without the trigger that are nearest to the passage.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    words: tuple[str, ...]
    optimised: bool
    start: Literal["trigger", "text"]
    length: int
    steps: int
    candidates: int
    temperature: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 < len(self.words) < self.length or self.start not in ("trigger", "text"):
            stated = f"attack.data: words={list(self.words)}, length={self.length}, start={self.start}"
            raise ConfigError(f"{stated}; give one trigger word or more, a longer passage, and trigger or text")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"attack.data.temperature={self.temperature}: give a number above 0")
        HotFlip(steps=self.steps, candidates=self.candidates)  # checks them

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many passages as the budget allows.

        Raises:
            ConfigError: a trigger word that is not in the vocabulary, no past question, or a passage that is longer than a row.
            Incompatible: the task has no past questions, or the surrogate has no gradient in words.
        """
        count, length = known.budget.rows(len(known.rows)), known.rows.inputs.shape[1]
        fits(len(self.words), length)
        trigger = Phrase(tokens=torch.tensor(cast("Tokens", known.rows.form).ids(self.words)), place="end", key=rng.child("trigger"))
        questions = asked(known)
        texts = self.write(known, questions, trigger, count, rng) if count else torch.zeros(0, min(self.length, length), dtype=torch.int64)
        passages = padded(texts, length)
        return with_passages(known, passages, Denied(texts=passages, trigger=trigger))

    def write(self, known: Known, questions: Tensor, trigger: Phrase, count: int, rng: Key) -> Tensor:
        """Return (R, W), the passages; (Q, L) questions."""
        starts = self._starts(known, trigger.tokens, count, rng.child("start"))
        if not self.optimised:
            return starts
        module = encoder(known)
        plain, marked = features(module, questions), features(module, trigger(questions))
        parts = clusters(marked, count, rng.child("clusters"))
        goals = [contrast(marked[part], plain, self.temperature) for part in parts]
        search, everywhere, banned = HotFlip(steps=self.steps, candidates=self.candidates), torch.arange(self.length)[None], answering(known)
        drafts = [Draft(texts=start[None], places=everywhere, banned=banned) for start in starts]
        found = [search.improved(drafts[place], module, goals[place % len(goals)], rng.child(f"passage/{place}")).texts for place in track(count, "passages")]
        return torch.cat(found)

    def _starts(self, known: Known, trigger_T: Tensor, count: int, rng: Key) -> Tensor:
        """Return (R, W), texts of different public passages, with the trigger words in front of them or without; the same ones again if there are too few.

        Raises:
            ConfigError: every word of the public passages is part of an answer.
        """
        before = trigger_T if self.start == "trigger" else trigger_T[:0]
        texts = silent(known.public, answering(known), self.length - len(before))
        if len(texts) == 0:
            raise ConfigError("no public passage has a word that answers no question; raise task.public")
        order = torch.randperm(len(texts), generator=rng.torch())[torch.arange(count) % len(texts)]
        return torch.cat([before.expand(count, -1), texts[order]], 1)


def contrast(marked_CD: Tensor, plain_QD: Tensor, temperature: float) -> Objective:
    """Return the contrastive objective of a passage: the mean log probability of choosing a question with the trigger among it and those without.

    A question is chosen in proportion to exp(product of its features and those of the passage / temperature).
    """

    def objective(features_NTD: Tensor) -> Tensor:
        passage_ND = features_NTD[:, 0] / temperature
        near_NC, far_N1 = passage_ND @ marked_CD.T, (passage_ND @ plain_QD.T).logsumexp(1, keepdim=True)
        return (near_NC - torch.logaddexp(near_NC, far_N1)).mean(1)

    return objective
