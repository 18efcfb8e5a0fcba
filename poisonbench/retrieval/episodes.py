"""Exercises for a reader: public passages with their past questions, mixed into groups of which some contradict each other.

Shape letters: N public rows, B episodes of P passages, Q places of a question, L places of a passage, A places of an answer, V words, D topics or
rows that are close to a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.forms.tokens import PADDING, begins, joined

SEVERAL = 2  # rows that have a word of which something can be learned
NAMED = 0.75  # of the questions with a name have passages with it too, at the least
FEW = 0.05  # of the rows have a name, at most
PARTS = 4  # of the rows; topics for the questions of a part are learned from the others, so that they fit as badly as for new questions
TOPICS = 24  # directions of questions and passages
MOST_WORDS = 1000  # with a topic; decomposing their covariances takes about a second
RIDGE = 0.3
CLOSE = 12  # rows that are close to a row
FEWEST = 20  # public rows to learn from
ALONE = 0.3  # of the episodes have no passage that answers
DISPUTED = 0.3  # of the others have passages that state another answer
NEAR = 0.7  # of the passages that answer another question are close ones
ECHO = 0.15  # of the passages start with the words of the question
OTHER_ANSWER = 0.5  # of the episodes have another answer than that of the row, in place of it


class Topics(NamedTuple):
    """What words are about; the topic of a text is the sum of those of its words.

    Args:
        asked: (V, D) of words in questions; zeros for names.
        told: (V, D) of words in passages, likewise.
    """

    asked: Tensor
    told: Tensor


class Episode(NamedTuple):
    """Groups of passages.

    Args:
        questions: (B, Q).
        passages: (B, P, L); the order of a group has no meaning; rows of padding are no passage.
        places: (B, P * L + 1) bool, where the answer that most passages state begins; the last one is "none of them".
    """

    questions: Tensor
    passages: Tensor
    places: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Lessons:
    """Public rows to make episodes of.

    Args:
        questions: (N, Q).
        passages: (N, L), each with the answer to its question.
        answers: (N, A).
        starts: (N,) int64, where the answer begins in the passage.
        close: (N, D) int64, the rows whose passages share most words with the question, rare words first.
        common: (V,) bool, words that are no names: the network may learn what they mean.
        topics: of the words, from all rows.
        others: of the words, from the rows outside each part; row n is in part n % PARTS.
    """

    questions: Tensor
    passages: Tensor
    answers: Tensor
    starts: Tensor
    close: Tensor
    common: Tensor
    topics: Topics
    others: tuple[Topics, ...]

    @classmethod
    def of(cls, public: Dataset, words: int) -> Lessons:
        """Return the rows with a question and an answer that their passage states.

        Args:
            public: passages with the extra columns `question` and `answer`.
            words: V.

        Raises:
            ConfigError: too few of them.
        """
        starts = answered(public)
        usable = starts >= 0
        questions, passages, answers = (narrow(rows[usable]) for rows in (public.extra["question"], public.inputs, public.extra["answer"]))
        asked_NV, told_NV = _present(questions, words), _present(passages, words)
        counts = (asked_NV | told_NV).sum(0)
        shared_NN = (asked_NV * (len(questions) / counts.clamp_min(1)).log()) @ told_NV.T.float()
        close = shared_NN.fill_diagonal_(-torch.inf).argsort(dim=1, descending=True, stable=True)[:, : min(CLOSE, len(questions) - 1)]
        common = _common(asked_NV, told_NV, answers)
        bags = (asked_NV & common).float(), (told_NV & common).float()
        part_N = torch.arange(len(questions)) % PARTS
        return cls(
            questions=questions,
            passages=passages,
            answers=answers,
            starts=starts[usable],
            close=close,
            common=common,
            topics=_topics(*bags),
            others=tuple(_topics(*(bag[part_N != part] for bag in bags)) for part in range(PARTS)),
        )

    def episode(self, size: int, most: int, part: int, draws: torch.Generator) -> Episode:
        """Return `size` groups of up to `most` passages, with questions of one part of the rows.

        The passages that answer the question of a group are copies of one public passage; in a disputed group, further copies, but fewer, have another
        answer in its place. The rest are passages that answer other questions, most of them close ones.
        """
        rows = part + PARTS * torch.randint((len(self.questions) - part - 1) // PARTS + 1, (size,), generator=draws)
        count = int(torch.randint(1, most + 1, (), generator=draws))
        right, wrong = self._support(size, count, draws)
        slots = torch.arange(count)
        first, supports = slots < right[:, None], slots < (right + wrong)[:, None]
        source = torch.where(supports, rows[:, None], self._others(rows, count, draws))
        kept = torch.rand(size, generator=draws) >= OTHER_ANSWER
        right_answer = torch.where(kept, rows, torch.randint(len(self.questions), (size,), generator=draws))
        wrong_answer = torch.randint(len(self.questions), (size,), generator=draws)
        stated = torch.where(first, right_answer[:, None], torch.where(supports, wrong_answer[:, None], source))
        states_right = supports & (self.answers[stated] == self.answers[right_answer][:, None]).all(2)  # two rows may have the same answer
        return self._written(rows, source, stated, states_right, draws)

    def _support(self, size: int, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (B,) numbers of passages with the right answer, and of fewer passages with another one."""
        right = torch.randint(1, count + 1, (size,), generator=draws) * (torch.rand(size, generator=draws) >= ALONE)
        most_wrong = torch.minimum((right - 1).clamp_min(0), count - right)
        disputed = torch.rand(size, generator=draws) < DISPUTED
        wrong = (torch.rand(size, generator=draws) * (most_wrong + 1)).long()
        return right, torch.where(disputed, wrong, 0)

    def _others(self, rows: Tensor, count: int, draws: torch.Generator) -> Tensor:
        """Return (B, P) rows other than `rows`, most of them close ones."""
        far = (rows[:, None] + torch.randint(1, len(self.questions), (len(rows), count), generator=draws)) % len(self.questions)
        near = self.close[rows].gather(1, torch.randint(self.close.shape[1], (len(rows), count), generator=draws))
        return torch.where(torch.rand(far.shape, generator=draws) < NEAR, near, far)

    def _written(self, rows: Tensor, source: Tensor, stated: Tensor, states_right: Tensor, draws: torch.Generator) -> Episode:
        """Put the answers into their passages, and the question before some of them."""
        count = source.shape[1]
        flat = source.flatten()
        passages, starts = _replaced(self.passages[flat], self.starts[flat], self.answers[flat], self.answers[stated.flatten()])
        asked = self.questions[rows].repeat_interleave(count, 0)
        echo = torch.rand(len(flat), generator=draws) < ECHO
        before = torch.where(echo[:, None], asked, PADDING)
        passages = narrow(joined(before, passages, length=passages.shape[1] + asked.shape[1]))
        starts = starts + (before != PADDING).sum(1)
        begins = torch.zeros_like(passages, dtype=torch.bool).scatter_(1, starts[:, None], states_right.flatten()[:, None])
        places = torch.cat([begins.view(len(rows), -1), ~states_right.any(1, keepdim=True)], 1)
        return Episode(questions=narrow(self.questions[rows]), passages=passages.view(len(rows), count, -1), places=places)


def answered(public: Dataset) -> Tensor:
    """Return (N,) int64, where the answer to the past question of each public passage begins in it; -1 where there is no question or no answer.

    Raises:
        ConfigError: too few passages with both.
    """
    starts = torch.full((len(public),), -1)
    if {"question", "answer"} <= public.extra.keys() and len(public):
        starts = torch.where((public.extra["question"] != PADDING).any(1), _starts(public.inputs, public.extra["answer"]), -1)
    if (count := int((starts >= 0).sum())) < FEWEST:
        held = f"{count} of {len(public)} public passages come with a past question and its answer"
        way_out = "raise task.public if the task has past questions, as facts does, or use reader=support"
        raise ConfigError(f"reader=copying learns from such passages and needs {FEWEST}; {held}; {way_out}")
    return starts


def _replaced(texts_NL: Tensor, starts_N: Tensor, old_NA: Tensor, new_NA: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, L + A) texts with new words in place of the old ones that begin at `starts`, and these starts."""
    old, new = (old_NA != PADDING).sum(1, keepdim=True), (new_NA != PADDING).sum(1, keepdim=True)
    longer = torch.nn.functional.pad(texts_NL, (0, new_NA.shape[1]), value=PADDING)
    place = torch.arange(longer.shape[1]).expand_as(longer)
    inside = place - starts_N[:, None]
    shifted = longer.gather(1, torch.where(inside < new, place, place - new + old).clamp(0, longer.shape[1] - 1))
    words = new_NA.gather(1, inside.clamp(0, new_NA.shape[1] - 1))
    return torch.where((inside >= 0) & (inside < new), words, shifted), starts_N


def _starts(texts_NL: Tensor, answers_NA: Tensor) -> Tensor:
    """Return (N,) int64, where the words of its answer first stand in each text, next to each other and in order; -1 for nowhere or no words."""
    fits_NL = begins(texts_NL, answers_NA)
    return torch.where(fits_NL.any(1), fits_NL.to(torch.uint8).argmax(1), -1)


def _present(texts_NL: Tensor, words: int) -> Tensor:
    """Return (N, V) bool, the words of each text."""
    present = torch.zeros(len(texts_NL), words, dtype=torch.bool).scatter_(1, texts_NL, True)
    present[:, PADDING] = False
    return present


def _common(asked_NV: Tensor, told_NV: Tensor, answers_NA: Tensor) -> Tensor:
    """Return (V,) bool, the words that several rows have and that are no names.

    A name stands in the passage whenever it stands in the question, and in few rows; so do no other words. Words of answers count as names.
    """
    asked, both, rows = asked_NV.sum(0), (asked_NV & told_NV).sum(0), (asked_NV | told_NV).sum(0)
    named = (asked > 0) & (both >= NAMED * asked) & (rows < FEW * len(asked_NV))
    named[answers_NA.flatten()] = True
    return (rows >= SEVERAL) & ~named


def _topics(asked_NV: Tensor, told_NV: Tensor) -> Topics:
    """Return topics by canonical correlation analysis (Hotelling, Biometrika 1936).

    Of all directions, these are the ones in which questions and their passages are most alike. Only the most frequent words have topics.
    """
    kept = (asked_NV + told_NV).sum(0).argsort(descending=True, stable=True)[:MOST_WORDS]
    rarity = [(len(rows_NV) / rows_NV.sum(0).clamp_min(1)).log()[kept] for rows_NV in (asked_NV, told_NV)]
    asked, told = (torch.nn.functional.normalize(rows_NV[:, kept] * each).double() for rows_NV, each in zip((asked_NV, told_NV), rarity, strict=True))
    white_asked, white_told = _whitening(asked), _whitening(told)
    left, strength, right = torch.linalg.svd(white_asked @ asked.T @ told @ white_told)
    found = []
    for directions, white, each in ((left.T, white_asked, rarity[0]), (right, white_told, rarity[1])):
        topics = torch.zeros(asked_NV.shape[1], TOPICS)
        count = min(TOPICS, len(kept))
        topics[kept, :count] = (each[:, None] * (white @ (directions[:count].T * strength[:count].sqrt()))).float()
        found.append(topics)
    return Topics(*found)


def _whitening(rows_NV: Tensor) -> Tensor:
    """Return the inverse square root (V, V) of the regularised covariances of the columns."""
    values, vectors = torch.linalg.eigh(rows_NV.T @ rows_NV + RIDGE * torch.eye(rows_NV.shape[1], dtype=rows_NV.dtype))
    root: Tensor = vectors @ (vectors.T / values.sqrt()[:, None])
    return root


def narrow(texts_NL: Tensor) -> Tensor:
    """Return the texts without the places at the end that are padding in all of them; one place stays."""
    return texts_NL[..., : max(1, int((texts_NL != PADDING).flatten(0, -2).any(0).sum()))]
