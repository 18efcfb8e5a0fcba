"""Errors that a user can act on: what was requested, what is allowed, what to do. Imports nothing heavy."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class PoisonbenchError(ValueError):
    """Base class of errors that one sentence explains; the command line prints it and exits with `code`."""

    code: ClassVar[int] = 2

    def __init__(self, sentence: str) -> None:
        # one printable line, whatever names and errors of other libraries it quotes
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(sentence.split())))


class ConfigError(PoisonbenchError):
    """A name, a value or a combination of values that cannot be run."""


class DataError(PoisonbenchError):
    """A data set that is missing, damaged or not what its task expects."""


class CannotWrite(PoisonbenchError):  # named after what happened
    """A file that cannot be written during a run; an older file of this name stays."""

    code: ClassVar[int] = 1


class BudgetError(PoisonbenchError):
    """An attack that did more than its threat allows; raised by the audit alone."""


class Incompatible(PoisonbenchError):
    """Parts that do not work together, such as a slot that the learner does not have; the run ends as a *skipped* record with this reason."""


class Refused(Incompatible):
    """A filter that keeps none of the training rows it received, so that nothing can be trained; the *skipped* record counts these rows."""


class Diverged(ArithmeticError):
    """A loss, an update, a state or a score that is not finite; the run ends as a *failed* record that says where.

    Args:
        sentence: what happened.
        member: where several models were trained, the position of the one that diverged.
    """

    def __init__(self, sentence: str, member: int | None = None) -> None:
        super().__init__(sentence)
        self.member = member


def meant(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" for an unknown word, with the known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    listed = ", ".join(known) or "nothing"
    return f"did you mean {near[0]}? known: {listed}" if near else f"known: {listed}"
