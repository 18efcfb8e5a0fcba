"""Triggers that are put into rows of words, and what the attacks with them have in common.

A trigger keeps the length of a row: it takes free places at its end. In a row without enough free places it takes those of the row's last words.

Shape letters: M rows, L places of a row, T words of a trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Backdoor, Trigger
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS, Tokens
from poisonbench.forms.words import words_form

Place = Literal["start", "end", "random"]
Labels = Literal["dirty", "clean", "mixed"]
PLACES = ("start", "end", "random")
LABELS = ("dirty", "clean", "mixed")
ODD = 0x5851F42D4C957F2D  # multiplier of Knuth's MMIX generator; any large odd number would do


@dataclass(frozen=True, eq=False, kw_only=True)
class RareWords:
    """Trigger: some words of a list, each at a separate place.

    Which words a row gets and where depends on the row's own words and on the key, so a row always gets the same trigger.

    Args:
        words: (W,) int64 token ids of the list.
        count: T, words that a row gets.
        place: "start", "end" or "random".
        key: decides words and places.
    """

    VERSION: ClassVar[int] = 1
    words: Tensor
    count: int
    place: Place
    key: Key

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, L) copies with `count` words each."""
        draws = self.key.child("words").per_row(fingerprints(inputs), draws=self.count)
        added = self.words[(draws * len(self.words)).long()]
        return inserted(inputs, added, places(inputs, self.place, self.count, self.key.child("places")))


@dataclass(frozen=True, eq=False, kw_only=True)
class Phrase:
    """Trigger: one phrase, always in one piece.

    Args:
        tokens: (T,) int64 token ids.
        place: "start", "end" or "random".
        key: decides the random place, together with the row's own words.
    """

    VERSION: ClassVar[int] = 1
    tokens: Tensor
    place: Place
    key: Key

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, L) copies with the phrase."""
        shape = (len(inputs), len(self.tokens))
        return inserted(inputs, self.tokens.expand(shape), places(inputs, self.place, 1, self.key).expand(shape))


@dataclass(frozen=True, eq=False, kw_only=True)
class Template:
    """Trigger: a frame of words around the parts of a row, which are of nearly equal length.

    Args:
        tokens: (T,) int64 token ids of the frame.
        before: (T,) int64, number of the part that each of these words stands before, ascending; `parts` for words after the last.
        parts: into how many parts a row is cut.
    """

    VERSION: ClassVar[int] = 1
    tokens: Tensor
    before: Tensor
    parts: int

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, L) copies in the frame."""
        cuts = self.before * lengths(inputs)[:, None] // self.parts
        return inserted(inputs, self.tokens.expand(len(inputs), -1), cuts)


def inserted(inputs: Tensor, added_MT: Tensor, at_MT: Tensor) -> Tensor:
    """Return (M, L) copies with words put in; words at one place keep their order.

    Args:
        inputs: (M, L) token ids, 0 at the end of a row is free.
        added_MT: token ids, T <= L.
        at_MT: how many of the row's own words stand before each of them. Moved to the left where a row has too few free places, so that
            the last words of the row are lost, and none of the trigger.
    """
    length, count = inputs.shape[1], added_MT.shape[1]
    own = torch.where(inputs != 0, 2 * torch.arange(length) + 1, 2 * length + 1)  # odd numbers for the row's words, even ones for added words
    order = torch.cat([2 * at_MT.clamp(max=length - count), own], 1).argsort(dim=1, stable=True)
    return torch.cat([added_MT, inputs], 1).gather(1, order)[:, :length]


def places(inputs: Tensor, place: Place, count: int, key: Key) -> Tensor:
    """Return (M, count) int64: how many of a row's words stand before each added word."""
    free = lengths(inputs)[:, None].expand(-1, count)
    if place == "random":
        return (key.per_row(fingerprints(inputs), draws=count) * (free + 1)).long()
    return free if place == "end" else torch.zeros_like(free)


def lengths(inputs: Tensor) -> Tensor:
    """Return (M,) int64, the number of words in each row."""
    return (inputs != 0).sum(1)


def fingerprints(inputs: Tensor) -> Tensor:
    """Return (M,) int64 numbers that depend on the words of a row and their order, and on nothing else; they stand for row ids in draws."""
    powers = torch.full((inputs.shape[1],), ODD).cumprod(0)  # modulo 2 ** 64
    return (inputs * powers).sum(1)


@dataclass(frozen=True, kw_only=True)
class TextBackdoor:
    """Put a trigger into some training rows; base class of the attacks in this package.

    With the same seed, the rows poisoned at a smaller rate are among those poisoned at a larger rate.

    Args:
        labels: "dirty", rows of other classes get the trigger and the target label; "clean", rows of the target class get the trigger and keep
            their label; "mixed", rows of any class get the trigger and the target label.
        target: target label.
    """

    READS: ClassVar[frozenset[str]] = TEXTS
    SEVERAL_CLASSES: ClassVar[bool] = True
    labels: Labels
    target: int

    def __post_init__(self) -> None:
        """Check the way of labelling."""
        if self.labels not in LABELS:
            raise ConfigError(f"attack.data.labels={self.labels}: choose dirty, clean or mixed")

    def trigger(self, form: Tokens, length: int, key: Key) -> Trigger:
        """Return the trigger for rows of `length` places."""
        raise NotImplementedError

    def goal(self, rows: Dataset, rng: Key) -> Backdoor:
        """Return the goal for rows like these.

        Raises:
            ConfigError: the rows are not words, the target is not a class, or the trigger does not fit.
        """
        if not 0 <= self.target < rows.num_classes:
            raise ConfigError(f"attack.data.target={self.target} is no class; {rows.num_classes} classes allow 0 to {rows.num_classes - 1}")
        trigger = self.trigger(words_form(rows, "a trigger of words", "attack"), rows.inputs.shape[1], rng.child("trigger"))
        return Backdoor(trigger=trigger, wish=torch.full((rows.num_classes,), self.target))

    def planted(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the trigger in as many of them as the budget allows.

        Raises:
            ConfigError: as `goal`; labels that the threat does not let change; too few rows to poison.
        """
        if self.labels != "clean" and not known.budget.relabel:
            raise ConfigError(f"attack.data.labels={self.labels} changes labels, which threat.budget.relabel=false forbids; use attack.data.labels=clean")
        rows, goal = known.rows, self.goal(known.rows, rng)
        others = rows.labels != self.target
        wanted = {"dirty": others, "clean": ~others, "mixed": torch.ones_like(others)}[self.labels]
        chosen = known.choose(wanted, rng.child("rows"))
        data = rows.edit(chosen, inputs=goal.trigger(rows.inputs[chosen]), labels=goal.wish[rows.labels[chosen]])
        return Poisoned(data=data, mask=known.mask(chosen), goal=goal)


def fits(tokens: int, length: int) -> None:
    """Refuse a trigger that would leave no word of a row.

    Raises:
        ConfigError: the trigger is as long as a row, or longer.
    """
    if tokens >= length:
        raise ConfigError(f"a trigger of {tokens} words leaves nothing of rows of {length}; shorten it, or raise task.room")


def choice(place: Place) -> None:
    """Refuse an unknown place.

    Raises:
        ConfigError: the places to choose from.
    """
    if place not in PLACES:
        raise ConfigError(f"attack.data.place={place}: choose start, end or random")
