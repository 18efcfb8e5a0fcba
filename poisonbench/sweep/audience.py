"""Listeners for the log, the progress and the results of a sweep."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from poisonbench.core.progress import Listen
from poisonbench.sweep.cell import DONE, Outcome

SWEEP = "cells of the sweep"  # label of the progress bar of all cells


class Audience(Protocol):
    """A listener for what happens in a sweep."""

    def log(self, cell: int, level: int, message: str) -> None:
        """Receive a log line of a cell, with the number of the cell."""
        ...

    def progress(self, cell: int, label: str, done: int, total: int) -> None:
        """Receive the progress of a piece of work."""
        ...

    def finished(self, number: int, cell: Outcome) -> None:
        """Receive the outcome of a cell."""
        ...


@dataclass(kw_only=True)
class Crowd:
    """Shows a sweep on a terminal: progress of each cell, and how many cells are done.

    Args:
        cells: number of cells.
        listen: receives progress.
        handler: prints log lines.
        show: prints a finished cell.
    """

    cells: int
    listen: Listen
    handler: logging.Handler
    show: Callable[[Outcome], object]
    done: int = 0
    failed: int = 0
    from_store: int = 0

    def __post_init__(self) -> None:
        """Show the progress bar of the whole sweep."""
        self.listen(SWEEP, 0, self.cells)

    def log(self, cell: int, level: int, message: str) -> None:
        """Print a line."""
        self.handler.handle(logging.LogRecord("poisonbench", level, "", 0, message, None, None))

    def progress(self, cell: int, label: str, done: int, total: int) -> None:
        """Move the bar of a piece of work."""
        self.listen(f"{cell + 1}: {label}", done, total)

    def finished(self, number: int, cell: Outcome) -> None:
        """Show a cell and move the bar of the whole sweep."""
        self.show(cell)
        self.done += 1
        self.failed += cell.code != DONE
        self.from_store += cell.code == DONE and not cell.made
        self.log(number, logging.INFO, f"{self.done} of {self.cells} cells done, {self.from_store} of them from the store, {self.failed} failed or refused")
        self.listen(SWEEP, self.done, self.cells)


class Plain:
    """Writes what happens in a job on another machine to standard output, which is its log file."""

    def log(self, cell: int, level: int, message: str) -> None:
        """Print a line."""
        sys.stdout.write(f"{message}\n")

    def progress(self, cell: int, label: str, done: int, total: int) -> None:
        """Print nothing."""

    def finished(self, number: int, cell: Outcome) -> None:
        """Print the outcome of a cell."""
        sys.stdout.write(f"{' '.join(cell.words)}: {cell.path or cell.sentence}\n")
        sys.stdout.flush()
