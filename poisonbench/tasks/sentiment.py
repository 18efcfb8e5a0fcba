"""Short film reviews from a grammar: a text task that needs no file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.storage.store import Store
from poisonbench.tasks.texts import Document, Texts

ADJECTIVES = (
    """dull flat stale clumsy lifeless tedious shallow bland messy hollow forced predictable awkward weak sloppy dreary pointless grating muddled trite
    cheap wooden tiresome bloated uneven limp noisy vague stiff sour""",
    """bright warm fresh clever lively gripping deep rich elegant sincere natural surprising graceful strong polished charming moving funny clear bold
    lovely vivid tender sharp joyful witty honest subtle radiant brisk""",
)
VERBS = (
    "drag fail bore fade stumble annoy disappoint sink collapse misfire",
    "shine work delight soar succeed move charm dazzle sparkle triumph",
)
PARTS = """plot acting story script cast music ending humour camera dialogue pace hero villain romance action drama score scenery tone set light costume
sound editing theme idea title opening finale"""
PLURALS = "actors scenes jokes songs twists effects lines images"
FILMS = "film movie picture comedy thriller western musical documentary sequel remake"
PEOPLE = "critics friends children parents viewers fans students"
DEGREES = "very quite really rather truly somewhat"
DIRECT = (  # {a} and {v} are words of the review's tone
    "the {part} is {a}",
    "the {part} is {degree} {a}",
    "the {plural} {v}",
    "a {degree} {a} {film}",
    "{people} found the {part} {a}",
    "it is {degree} {a}",
)
NEGATED = (  # here of the opposite tone
    "the {part} is not {a}",
    "the {part} is not {degree} {a}",
    "the {plural} never {v}",
    "hardly a {a} {film}",
    "{people} did not find the {part} {a}",
    "there is nothing {a} about the {part}",
)
NEUTRAL = (
    "we saw it with some {people}",
    "it was shown in a small hall",
    "the {film} has a {part} and a {part}",
    "the {people} talk about the {part}",
    "it is a {film} about a town",
    "the {film} lasts two hours",
    "the {plural} come before the {part}",
    "the {part} was made by {people}",
)
JOINTS = (" , and ", " , ", " ; ", " . ")
SLOT = re.compile(r"{(\w+)}")
CLAUSES = 3  # most opinions of a review


@dataclass(frozen=True, kw_only=True)
class Sentiment(Texts):
    """Film reviews of a few clauses, drawn from a small grammar; a model trains on them in seconds.

    A review has one to three opinions and up to two neutral clauses, in random order. An opinion is direct ("the plot is dull") or negates its
    opposite ("there is nothing clever about the cast"), so the order of words matters: a bag of words sees "clever". Some reviews with three
    opinions have one of the other tone; the majority is the label. A few labels are wrong, in training and test rows alike. All
    texts are different. The grammar draws with `split_seed`, so all seeds of an experiment see the same texts.

    Args:
        rows: training rows, half of each class before labels are turned.
        test_rows: test rows, likewise.
        negated: chance that an opinion is a negation, in [0, 1].
        mixed: chance that one of three opinions is of the other tone, in [0, 1].
        noise: chance that a label is wrong, in [0, 0.5).
    """

    VERSION: ClassVar[int] = 1
    rows: int
    test_rows: int
    negated: float
    mixed: float
    noise: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if min(self.rows, self.test_rows) < 2 or not (0 <= self.negated <= 1 and 0 <= self.mixed <= 1 and 0 <= self.noise < 0.5):
            asked = f"rows={self.rows}, test_rows={self.test_rows}, negated={self.negated}, mixed={self.mixed}, noise={self.noise}"
            raise ConfigError(f"task=sentiment: {asked}; give 2 rows or more, shares in [0, 1], and noise in [0, 0.5)")

    def load(self, store: Store) -> Task:
        """Return the task."""
        draws = Key.root(self.split_seed).child("sentiment").numpy()  # numpy draws the same numbers on every processor
        texts = dict[str, int]()
        while len(texts) < self.rows + self.test_rows:
            tone = len(texts) % 2
            texts.setdefault(self._review(tone, draws), tone)
        turned = draws.random(len(texts)) < self.noise
        documents = [Document(text, tone ^ int(turn)) for (text, tone), turn in zip(texts.items(), turned, strict=True)]
        return self.task("sentiment", self.raw("sentiment", documents[: self.rows], documents[self.rows :], ("negative", "positive")))

    def _review(self, tone: int, draws: np.random.Generator) -> str:
        tones = [tone] * int(draws.integers(1, CLAUSES + 1))
        if len(tones) == CLAUSES and draws.random() < self.mixed:
            tones[0] = 1 - tone
        clauses = [self._opinion(each, draws) for each in tones] + [_filled(_pick(NEUTRAL, draws), 0, draws) for _ in range(draws.integers(3))]
        order = draws.permutation(len(clauses))
        text = clauses[order[0]]
        for place in order[1:]:
            text += _pick(JOINTS, draws) + clauses[place]
        return f"{text} ."

    def _opinion(self, tone: int, draws: np.random.Generator) -> str:
        if draws.random() < self.negated:
            return _filled(_pick(NEGATED, draws), 1 - tone, draws)
        return _filled(_pick(DIRECT, draws), tone, draws)


def _filled(clause: str, tone: int, draws: np.random.Generator) -> str:
    """Return the clause with a random word in each slot."""
    words = {"a": ADJECTIVES[tone], "v": VERBS[tone], "part": PARTS, "plural": PLURALS, "film": FILMS, "people": PEOPLE, "degree": DEGREES}
    return SLOT.sub(lambda slot: _pick(words[slot[1]].split(), draws), clause)


def _pick(choices: Sequence[str], draws: np.random.Generator) -> str:
    return choices[int(draws.integers(len(choices)))]
