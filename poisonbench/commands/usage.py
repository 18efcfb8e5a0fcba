"""The help page of a command. Imports nothing heavy."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HELP = ("--help", "-h")
WIDTH, COLUMN = 110, 30

RESULTS_DIR = {"results_dir=PATH": "folder of records/ and store/; by default results/local in a clone, ./results elsewhere"}
TRUST = {
    "trust=PREFIX.": "run your own classes whose path begins with this prefix, such as trust=my_lab.",
    "hydra.searchpath=[pkg://my_lab.configs]": "where your own configurations are stored",
    "task.download=true": "let the task of a record download its data",
}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How a command is called.

    Args:
        call: its words, such as "verify RECORD...".
        does: what it does, in a sentence or two.
        options: every word that it accepts, with its meaning.
    """

    call: str
    does: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        """Return the page."""
        options = [line for name, meaning in {**self.options, ", ".join(HELP): "print this and exit"}.items() for line in _option(name, meaning)]
        return "\n".join([f"usage: python -m poisonbench {self.call}", "", *textwrap.wrap(self.does, WIDTH), "", *options])


def asked(words: Sequence[str]) -> bool:
    """Return whether the words ask for the help of a command."""
    return any(word in HELP for word in words)


def _option(name: str, meaning: str) -> list[str]:
    """Return the lines of an option: its meaning beside its name, or below a long one."""
    lines = textwrap.wrap(meaning, WIDTH - COLUMN)
    beside = len(name) + 4 <= COLUMN
    first = [f"  {name:<{COLUMN - 2}}{lines[0]}"] if beside else [f"  {name}", " " * COLUMN + lines[0]]
    return [*first, *(" " * COLUMN + line for line in lines[1:])]
