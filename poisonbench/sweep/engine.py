"""Where the cells of a sweep run, and what all engines have in common that ask other machines."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from poisonbench.sweep.audience import Audience, Plain
from poisonbench.sweep.cell import Cell, buried
from poisonbench.sweep.processes import Processes

TRIES = 3  # machines that may be lost under one load
LOOK = 0.5  # seconds between two looks at what is running


class Engine(Protocol):
    """A place where cells run."""

    @property
    def threads(self) -> int | None:
        """CPU threads of a cell, where the engine decides about it."""
        ...

    def swept(self, cells: Sequence[Sequence[str]], audience: Audience) -> list[Cell]:
        """Run every cell and return what became of each, in their order."""
        ...


class Lost(Exception):  # what happened to a machine, not an error of ours
    """The machine that had a load is gone, or never came."""


class Ticket(Protocol):
    """A load that another machine has taken."""

    def ready(self) -> bool:
        """Tell whether it has ended, well or not."""
        ...

    def cells(self) -> list[Cell]:
        """Return what became of its cells.

        Raises:
            Lost: the machine is gone.
        """
        ...

    def cancel(self) -> None:
        """Take it back."""
        ...


class Machines(Protocol):
    """Where loads are sent."""

    def send(self, loads: Sequence[Sequence[tuple[str, ...]]]) -> list[Ticket]:
        """Hand out loads, each the command lines of some cells, and return a ticket for each."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Out:
    """A load on its way: the numbers of its cells, its ticket, and how often it was sent before."""

    numbers: range
    ticket: Ticket
    before: int = 0


def work(cells: Sequence[tuple[str, ...]], cell_minutes: float | None, folder: str) -> list[Cell]:
    """Run a load here, on the machine that took it: a cell that crashes or hangs ends alone.

    Args:
        cells: words of the command line of each.
        cell_minutes: longest time of one cell; None is without end.
        folder: where the one who asks stands: paths are as seen from there.
    """
    os.chdir(folder)
    return Processes(workers=1, cell_minutes=cell_minutes).swept(cells, Plain())


def gathered(cells: Sequence[Sequence[str]], audience: Audience, machines: Machines, *, per_load: int) -> list[Cell]:
    """Send all cells out and return what became of each, in their order.

    A load whose machine is lost goes out again: cells that had ended are found in the store. After `TRIES` machines its cells
    end as failed records.

    Args:
        cells: words of the command line of each.
        audience: hears of each that ends.
        machines: take the loads.
        per_load: cells of a load.
    """
    words = [tuple(cell) for cell in cells]
    numbers = [range(first, min(first + per_load, len(words))) for first in range(0, len(words), per_load)]
    tickets = machines.send([words[some.start : some.stop] for some in numbers])
    out = [_Out(numbers=some, ticket=ticket) for some, ticket in zip(numbers, tickets, strict=True)]
    told: dict[int, Cell] = {}
    try:
        while out:
            ready = [load for load in out if load.ticket.ready()]
            out = [load for load in out if load not in ready]
            for load in ready:
                ended, again = _ended(load, words, machines)
                out += again
                for number, cell in zip(load.numbers, ended, strict=False):
                    told[number] = cell
                    audience.finished(number, cell)
            time.sleep(0 if ready else LOOK)
    finally:
        for load in out:
            load.ticket.cancel()
    return [told[number] for number in range(len(words))]


def _ended(load: _Out, words: Sequence[tuple[str, ...]], machines: Machines) -> tuple[list[Cell], list[_Out]]:
    """Return the cells of a load, or the load sent out again."""
    some = words[load.numbers.start : load.numbers.stop]
    try:
        return load.ticket.cells(), []
    except Lost as error:
        if load.before + 1 < TRIES:
            return [], [_Out(numbers=load.numbers, ticket=machines.send([some])[0], before=load.before + 1)]
        return [buried(cell, f"{TRIES} machines were lost under it: {error}") for cell in some], []
