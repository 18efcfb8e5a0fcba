"""The whitelist attack: ham that carries the words of a chosen pattern, so that spam with this pattern passes.

Shape letters: M rows, L places of a row, R rows poisoned, W words of the pattern.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from attacks.injection import with_rows
from attacks.spam.delivery import Classes, Passed, words_in
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS, Tokens, joined


@dataclass(frozen=True, kw_only=True)
class PatternWhitelist:
    """Teach the filter that the words of a pattern are signs of ham, so that spam with the pattern passes as ham.

    Source: the causative integrity attack of Barreno, Nelson, Sears, Joseph, Tygar, "Can Machine Learning Be Secure?", ASIACCS 2006, in the form of the
    pseudospam attack of Nelson, "Behavior of Machine Learning Algorithms in Adversarial Environments", 2010: mails that enter the training set as ham.

    Differences: pseudospam carries the words of a whole campaign. Here the pattern is a fixed line of words, such as a signature, which is put in front
    of the mail. So the share of spam that passes can be compared with and without the pattern on the same mails.

    Args:
        how: "inject" copies of random ham rows with the pattern, labelled ham; "edit" ham rows, which keep their label (clean-label); or "relabel" spam
            rows, which get the pattern and the label ham.
        pattern: words of the pattern, all of them in the task's vocabulary (`task.words` adds some). Empty: of the words that are in
            spam and in no ham row, the `size` that are in the fewest rows, at random among equals.
        size: number of words, 1 or more, if `pattern` is empty.
        ham: label of ham.
        spam: label of spam.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    SEVERAL_CLASSES: ClassVar[bool] = True
    how: Literal["inject", "edit", "relabel"]
    pattern: tuple[str, ...]
    size: int
    ham: int
    spam: int

    def __post_init__(self) -> None:
        """Check that the size is in range."""
        if self.size < 1:
            raise ConfigError(f"attack.data.size={self.size}: give a number of words of 1 or more")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the pattern in as many ham rows as the budget allows.

        Raises:
            ConfigError: the labels are no classes of the rows, a word is not in the vocabulary, the pattern does not fit, or there are too few rows.
        """
        classes, rows = Classes(ham=self.ham, spam=self.spam), known.rows
        classes.check(rows)
        trigger = Signature(words=self.words(known, rng.child("pattern")))
        if len(trigger.words) > rows.inputs.shape[1]:
            raise ConfigError(f"attack.data: a pattern of {len(trigger.words)} words and rows of {rows.inputs.shape[1]}; give a shorter pattern")
        goal = Passed(classes=classes, trigger=trigger)
        chosen = known.choose(rows.labels == (self.spam if self.how == "relabel" else self.ham), rng.child("rows"))
        marked = trigger(rows.inputs[chosen])
        if self.how == "inject":
            return dataclasses.replace(with_rows(known, chosen, marked, self.ham, goal), origins=chosen)
        data = rows.edit(chosen, inputs=marked, labels=torch.full((len(chosen),), self.ham))
        return Poisoned(data=data, mask=known.mask(chosen), goal=goal)

    def words(self, known: Known, rng: Key) -> Tensor:
        """Return (W,) int64, the words of the pattern."""
        form = cast("Tokens", known.rows.form)
        if self.pattern:
            return torch.tensor(form.ids(self.pattern))
        ham, spam = (known.rows.inputs[known.rows.labels == label] for label in (self.ham, self.spam))
        rows = torch.zeros(len(form.vocabulary), dtype=torch.int64)
        for row in spam:
            rows[row.unique()] += 1
        words = words_in(spam)
        words = words[~torch.isin(words, words_in(ham))]
        if self.size > len(words):
            raise ConfigError(f"attack.data.size={self.size}: {len(words)} words are in spam alone; give fewer, or name the words in attack.data.pattern")
        order = (rows[words] + rng.per_row(words)[:, 0]).argsort(stable=True)  # by the number of rows, and at random among equals
        return words[order[: self.size]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Signature:
    """The trigger that puts words in front of a row; a full row loses its last words.

    Args:
        words: (W,) int64.
    """

    VERSION: ClassVar[int] = 1
    words: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, L) rows that begin with the words."""
        return joined(self.words.expand(len(inputs), -1), inputs, length=inputs.shape[1])
