"""Errors a user can act on: what was asked, what holds, what to do. Imports nothing heavy."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class PoisonbenchError(ValueError):
    """Base of every error that one sentence explains; the command line prints it and exits with `code`."""

    code: ClassVar[int] = 2

    def __init__(self, sentence: str) -> None:
        # one line that a terminal may show, whatever names and foreign errors it quotes
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(sentence.split())))


class ConfigError(PoisonbenchError):
    """A name, a value or a combination of values that cannot be run."""


class DataError(PoisonbenchError):
    """A data set that is missing, damaged or not what its task expects."""


class CannotWrite(PoisonbenchError):  # what happened, in the words of its sentence
    """A file that the disk does not take, in the middle of a run; what lay there before still does."""

    code: ClassVar[int] = 1


class BudgetError(PoisonbenchError):
    """An attack that did more than its threat allows; raised by the audit alone."""


class Incompatible(PoisonbenchError):
    """A slot that the learner cannot honour; the run ends as a *skipped* record with this reason."""


class Diverged(ArithmeticError):
    """A loss, an update, a state or a score that is not finite; the run ends as a *failed* record that says where.

    Args:
        sentence: what happened.
        member: where several models were trained, the place of the one that diverged.
    """

    def __init__(self, sentence: str, member: int | None = None) -> None:
        super().__init__(sentence)
        self.member = member


def meant(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" for a word that is not known, with what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    listed = ", ".join(known) or "nothing"
    return f"did you mean {near[0]}? known: {listed}" if near else f"known: {listed}"
