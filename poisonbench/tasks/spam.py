"""Generated mail: ham and spam from a small grammar with topics and many rare names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.storage.store import Store
from poisonbench.tasks.mails import BOTH, HAM, SPAM, TOPICS, Style, name_of
from poisonbench.tasks.sms import ANSWERS
from poisonbench.tasks.texts import Document, Texts

SLOT = re.compile(r"<(\w+)>")
SENTENCES = (10, 21)  # of a mail, the second number excluded
TOPIC_SHARE = 0.8  # of the topic words of a mail are of its own topic


@dataclass(frozen=True, kw_only=True)
class Spam(Texts):
    """Mails of a few sentences: half ham, half spam; the answers are ham, spam and unsure.

    Each mail has a topic and a style. Its sentences are templates of its own class, of the other class, or of both; slots are filled with words of the
    topic, numbers and names. Names are rare: most occur in few mails, as most words of real mail do. A share of the mails is hard: advertisements that
    a customer has asked for, and spam that reads like a personal mail. Nothing is learned from real mail, and no word list is taken from a corpus.

    Args:
        rows: training rows, 4 or more.
        test_rows: test rows, 2 or more.
        hard: share of the mails of each class that are hard, in [0, 1].
        names: number of different names, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    rows: int
    test_rows: int
    hard: float
    names: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if self.rows < 4 or self.test_rows < 2 or not 0 <= self.hard <= 1 or self.names < 1:
            asked = f"rows={self.rows}, test_rows={self.test_rows}, hard={self.hard}, names={self.names}"
            raise ConfigError(f"task=spam: {asked}; give rows=4, test_rows=2 and names=1 or more, and a share of hard mails in [0, 1]")

    def load(self, store: Store) -> Task:
        """Return the task."""
        key = Key.root(self.split_seed).child("spam")
        train, test = (self._mails(rows, key.child(name)) for name, rows in (("train", self.rows), ("test", self.test_rows)))
        return self.task("spam", self.raw("spam", train, test, ANSWERS))

    def _mails(self, rows: int, key: Key) -> list[Document]:
        """Return different mails; ham and spam take turns."""
        rng, mails = key.numpy(), dict[str, Document]()
        while len(mails) < rows:
            label = len(mails) % 2
            text = self._mail((HAM, SPAM)[label], rng)
            mails.setdefault(text, Document(text, label))
        return list(mails.values())

    def _mail(self, style: Style, rng: np.random.Generator) -> str:
        """Return the sentences of one mail."""
        own = style.hard if rng.random() < self.hard else style.own
        topic, other = (topics[int(rng.integers(len(topics)))] for topics in (style.topics, TOPICS))
        sources, shares = (style.sentences, style.others, BOTH), (own, style.strange, 1 - own - style.strange)
        text = []
        for source in rng.choice(len(sources), size=int(rng.integers(*SENTENCES)), p=shares).tolist():
            sentence = sources[source][int(rng.integers(len(sources[source])))]
            text.append(SLOT.sub(lambda slot: self._filled(slot[1], topic if rng.random() < TOPIC_SHARE else other, rng), sentence))
        return " ".join(text)

    def _filled(self, slot: str, topic: tuple[str, ...], rng: np.random.Generator) -> str:
        """Return a word for a slot of a sentence."""
        if slot == "number":
            return str(rng.integers(2, 100))
        if slot == "name":
            return name_of(int(self.names * rng.random() ** 1.5))
        return topic[int(rng.integers(len(topic)))]
