"""Texts from a small grammar, in any number: a pre-training task whose size is a setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens, vocabulary_of
from poisonbench.storage.store import Store
from poisonbench.tasks.documents import Documents

ARTICLES = ["the", "a", "this", "every", "one"]
ADJECTIVES = ["old", "small", "red", "quiet", "bright", "heavy", "young", "cold", "slow", "green", "deep", "tall"]
NOUNS = ["fox", "river", "baker", "tower", "child", "garden", "ship", "letter", "stone", "bird", "king", "road", "horse", "window", "cloud", "farmer"]
VERBS = ["sees", "follows", "paints", "carries", "finds", "likes", "leaves", "holds", "hears", "builds"]
PLACES = ["near", "under", "behind", "over", "beside"]
ADVERBS = ["often", "slowly", "never", "soon", "today", "again"]
JOINTS = ["and", "while", "because", "but"]
MARKS = [".", ","]
JUDGED = 4000  # texts that the judge is fitted on


@dataclass(frozen=True, kw_only=True)
class Grammar(Documents):
    """Texts of a fixed length, cut from sentences of a small grammar ("the old fox often sees a river near the tower .").

    The grammar's own perplexity is about 11 for each word. The judge is fitted on 4,000 further texts, the same for every number of rows. Texts
    are different from each other, so one pass over them is a training on ever new texts, as in the pre-training of a large model. The grammar draws
    with `split_seed`; the texts of a smaller number of rows are the first ones of a larger number.

    Args:
        rows: training texts, the public and trusted ones included.
        test_rows: beginnings of texts.
    """

    VERSION: ClassVar[int] = 1
    rows: int
    test_rows: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if min(self.rows, self.test_rows) < 1:
            raise ConfigError(f"task.rows={self.rows}, task.test_rows={self.test_rows}: give 1 or more of both")

    def load(self, store: Store) -> Task:
        """Return the task."""
        key = Key.root(self.split_seed).child("grammar")
        form = Tokens(vocabulary=vocabulary_of([ARTICLES, ADJECTIVES, NOUNS, VERBS, PLACES, ADVERBS, JOINTS, MARKS], self.words))
        wanted = (("train", self.rows), ("test", self.test_rows), ("judge", JUDGED))
        train, test, known = (self._texts(count, key.child(name).numpy()) for name, count in wanted)
        return self.task_of("grammar", train, test, form, known)

    def _texts(self, count: int, draws: np.random.Generator) -> list[list[str]]:
        found = dict[tuple[str, ...], None]()
        while len(found) < count:
            words = _sentence(draws)
            while len(words) < self.length:
                words += _sentence(draws)
            found.setdefault(tuple(words[: self.length]))
        return [list(words) for words in found]


def _sentence(draws: np.random.Generator) -> list[str]:
    def pick(choices: list[str]) -> str:
        return choices[int(draws.integers(len(choices)))]

    def thing() -> list[str]:
        return [pick(ARTICLES), *([pick(ADJECTIVES)] if draws.random() < 0.5 else []), pick(NOUNS)]

    def clause() -> list[str]:
        adverb = [pick(ADVERBS)] if draws.random() < 0.3 else []
        place = [pick(PLACES), *thing()] if draws.random() < 0.4 else []
        return [*thing(), *adverb, pick(VERBS), *thing(), *place]

    words = clause()
    if draws.random() < 0.3:
        words += [*([","] if draws.random() < 0.5 else []), pick(JOINTS), *clause()]
    return [*words, "."]
