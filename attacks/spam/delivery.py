"""What attacks on spam filters want, and the mails that they send.

Shape letters: N rows, M probed rows, K answers, L places of a row, R mails, W words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import NoGoal, Probe, Trigger
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes of the mails.

    Args:
        ham: label of ham.
        spam: label of spam.
    """

    ham: int
    spam: int

    def check(self, rows: Dataset) -> None:
        """Refuse labels that are no two classes of the rows.

        Raises:
            ConfigError: says which labels there are.
        """
        classes = set(rows.labels.tolist())
        if self.ham == self.spam or not {self.ham, self.spam} <= classes:
            named = ", ".join(map(str, sorted(classes)))
            raise ConfigError(f"attack.data: ham={self.ham}, spam={self.spam}; give two of the classes that training rows have: {named}")


def delivery(victim: Victim, test: Dataset, classes: Classes) -> dict[str, float]:
    """Return the share of test ham and test spam by answer; a share without rows is absent, and so is "unsure" without such an answer."""
    answers, figures = victim.scores(test.inputs).argmax(1), dict[str, float]()
    for name, own, other, wrong in (("ham", classes.ham, classes.spam, "spam"), ("spam", classes.spam, classes.ham, "ham")):
        given = answers[test.labels == own]
        if len(given):
            figures[f"{name}_as_{wrong}"] = share(given == other)
            if test.num_classes > 2:
                figures[f"{name}_unsure"] = share((given != own) & (given != other))
    return figures


def share(claims: Tensor) -> float:
    """Return the share of (M,) bool that are true."""
    return int(claims.sum()) / len(claims)


@dataclass(frozen=True, eq=False, kw_only=True)
class Undelivered(NoGoal):
    """Goal: ham is not delivered: any answer but ham is a success. ASR without an attack is the share that the filter loses by itself.

    The figures of the goal are shares of the test rows by their label and the answer: "ham_as_spam", "ham_unsure", "spam_as_ham", "spam_unsure".

    Args:
        classes: the classes of the mails.
        ids: (T,) int64 ids of the test rows that the attacker aims at; None: every ham row.
    """

    VERSION: ClassVar[int] = 1
    classes: Classes
    ids: Tensor | None = None

    def probe(self, test: Dataset) -> Probe:
        """Return the targets, or all ham rows, as they are."""
        wanted = test.labels == self.classes.ham
        rows = (wanted if self.ids is None else wanted & torch.isin(test.ids, self.ids)).nonzero()[:, 0]
        hit = ~F.one_hot(test.labels[rows], test.num_classes).bool()
        targets = rows[:0] if self.ids is None else rows
        return Probe(rows=rows, inputs=test.inputs[rows], truth=test.labels[rows], hit=hit, targets=targets)

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return the shares of all test rows by label and answer."""
        return delivery(victim, test, self.classes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Passed(NoGoal):
    """Goal: spam with the pattern is answered ham. The figures of the goal tell what happens to all test rows without the pattern, as in `Undelivered`.

    Args:
        classes: the classes of the mails.
        trigger: puts the pattern on a row.
    """

    VERSION: ClassVar[int] = 1
    classes: Classes
    trigger: Trigger

    def probe(self, test: Dataset) -> Probe:
        """Put the pattern on every spam row."""
        rows = (test.labels == self.classes.spam).nonzero()[:, 0]
        hit = torch.zeros(len(rows), test.num_classes, dtype=torch.bool)
        hit[:, self.classes.ham] = True
        return Probe(rows=rows, inputs=self.trigger(test.inputs[rows]), truth=test.labels[rows], hit=hit)

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return the shares of the unchanged test rows by label and answer."""
        return delivery(victim, test, self.classes)


def anywhere(known: Known, rng: Key) -> Tensor:
    """Return (R,) int64, as many writable rows as the budget allows, drawn at random."""
    return known.choose(torch.ones(len(known.rows), dtype=torch.bool), rng)


def packed(words_W: Tensor, count: int, length: int) -> Tensor:
    """Return (count, L) int64 mails that together repeat these words over and over.

    If all words fit into one mail, each mail has all of them. Otherwise each mail goes on where the one before ended, so that every word is in
    nearly the same number of mails.
    """
    mails, each = torch.zeros(count, length, dtype=torch.int64), min(len(words_W), length)
    if each:
        mails[:, :each] = words_W[torch.arange(count * each).reshape(count, each) % len(words_W)]
    return mails


def words_in(inputs: Tensor) -> Tensor:
    """Return (W,) int64, the different words of rows in ascending order, without padding and the unknown word."""
    words: Tensor = inputs.unique()
    return words[words > 1]
