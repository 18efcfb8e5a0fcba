"""The interface of engines, which run the cells of a sweep, and the shared code of engines that use other machines."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from poisonbench.sweep.audience import Audience, Plain
from poisonbench.sweep.cell import Outcome, buried
from poisonbench.sweep.processes import Processes

TRIES = 3  # machines that may fail for one load before its cells fail
LOOK = 0.5  # seconds between two checks of running loads


class Engine(Protocol):
    """A place where cells run."""

    @property
    def threads(self) -> int | None:
        """CPU threads of a cell; None if the engine does not set them."""
        ...

    def swept(self, cells: Sequence[Sequence[str]], audience: Audience) -> list[Outcome]:
        """Run every cell and return the outcome of each, in the order of `cells`."""
        ...


class Lost(Exception):  # names what happened to a machine; it is no error of the program
    """The machine of a load failed or never started."""


class Ticket(Protocol):
    """A load that was sent to another machine."""

    def ready(self) -> bool:
        """Return whether the load has ended, with or without success."""
        ...

    def cells(self) -> list[Outcome]:
        """Return the outcomes of its cells.

        Raises:
            Lost: the machine failed.
        """
        ...

    def cancel(self) -> None:
        """Stop the load."""
        ...


class Machines(Protocol):
    """The other machines that run loads."""

    def send(self, loads: Sequence[Sequence[tuple[str, ...]]]) -> list[Ticket]:
        """Send loads, each the command lines of some cells, and return a ticket for each."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Out:
    """A load that was sent: the numbers of its cells, its ticket, and how often it was sent before."""

    numbers: range
    ticket: Ticket
    before: int = 0


def work(cells: Sequence[tuple[str, ...]], cell_minutes: float | None, folder: str) -> list[Outcome]:
    """Run a load on this machine; a cell that crashes or hangs does not stop the others.

    Args:
        cells: words of the command line of each cell.
        cell_minutes: longest time of one cell; None is without limit.
        folder: working directory of the sweep; relative paths start from it.
    """
    os.chdir(folder)
    return Processes(workers=1, cell_minutes=cell_minutes).swept(cells, Plain())


def gathered(cells: Sequence[Sequence[str]], audience: Audience, machines: Machines, *, per_load: int) -> list[Outcome]:
    """Send all cells to other machines and return the outcome of each, in the order of `cells`.

    A load whose machine fails is sent again; values that are in the store already are not computed again. After `TRIES` failed
    machines its cells end as failed records.

    Args:
        cells: words of the command line of each cell.
        audience: receives each finished cell.
        machines: run the loads.
        per_load: cells of a load.
    """
    words = [tuple(cell) for cell in cells]
    numbers = [range(first, min(first + per_load, len(words))) for first in range(0, len(words), per_load)]
    tickets = machines.send([words[some.start : some.stop] for some in numbers])
    out = [_Out(numbers=some, ticket=ticket) for some, ticket in zip(numbers, tickets, strict=True)]
    outcomes: dict[int, Outcome] = {}
    try:
        while out:
            ready = [load for load in out if load.ticket.ready()]
            out = [load for load in out if load not in ready]
            for load in ready:
                ended, again = _ended(load, words, machines)
                out += again
                for number, cell in zip(load.numbers, ended, strict=False):
                    outcomes[number] = cell
                    audience.finished(number, cell)
            time.sleep(0 if ready else LOOK)
    finally:
        for load in out:
            load.ticket.cancel()
    return [outcomes[number] for number in range(len(words))]


def _ended(load: _Out, words: Sequence[tuple[str, ...]], machines: Machines) -> tuple[list[Outcome], list[_Out]]:
    """Return the finished cells of a load, or the load that was sent again."""
    some = words[load.numbers.start : load.numbers.stop]
    try:
        return load.ticket.cells(), []
    except Lost as error:
        if load.before + 1 < TRIES:
            return [], [_Out(numbers=load.numbers, ticket=machines.send([some])[0], before=load.before + 1)]
        return [buried(cell, f"{TRIES} machines failed while they ran it: {error}") for cell in some], []
