"""Many experiments, each in a process that may die: no crash, hang or shortage of memory ends the others.

A worker is asked for one cell after the other and answers with events. One that dies, or takes longer than it may, leaves a failed
record behind and is replaced.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from poisonbench.cell import DONE, FAILED, Cell, buried, computed
from poisonbench.core.progress import Listen, heard

LOOK = 0.5  # seconds between two looks at the clock
START = 60.0  # seconds a fresh process may take to import torch, which are none of the cell's
SPAWN = multiprocessing.get_context("spawn")


class Audience(Protocol):
    """Who hears what happens in a sweep."""

    def log(self, cell: int, level: int, message: str) -> None:
        """Hear a line of the log of a cell, by its number."""
        ...

    def progress(self, cell: int, label: str, done: int, total: int) -> None:
        """Hear how far a piece of work is."""
        ...

    def finished(self, number: int, cell: Cell) -> None:
        """Hear what became of a cell."""
        ...


@dataclass(kw_only=True)
class Crowd:
    """The audience of a terminal: tells cells apart and counts them.

    Args:
        cells: how many there are.
        listen: hears progress.
        handler: prints lines.
        show: prints a finished cell.
    """

    cells: int
    listen: Listen
    handler: logging.Handler
    show: Callable[[Cell], object]
    done: int = 0
    failed: int = 0
    from_store: int = 0

    def log(self, cell: int, level: int, message: str) -> None:
        """Print a line."""
        self.handler.handle(logging.LogRecord("poisonbench", level, "", 0, message, None, None))

    def progress(self, cell: int, label: str, done: int, total: int) -> None:
        """Move the bar of a piece of work."""
        self.listen(f"{cell + 1}: {label}", done, total)

    def finished(self, number: int, cell: Cell) -> None:
        """Show a cell and move the bar of the whole sweep."""
        self.show(cell)
        self.done += 1
        self.failed += cell.code != DONE
        self.from_store += cell.code == DONE and not cell.made
        self.log(number, logging.INFO, f"{self.done} of {self.cells} cells done, {self.from_store} of them from the store, {self.failed} failed or refused")
        self.listen("cells of the sweep", self.done, self.cells)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is asked for.

    Args:
        number: of the cell, from 0.
        words: of its command line.
        reason: why its last worker is gone; "" runs it, else its failed record is written.
    """

    number: int
    words: tuple[str, ...]
    reason: str = ""


def swept(cells: Sequence[Sequence[str]], audience: Audience, *, workers: int, minutes: float | None) -> list[Cell]:
    """Run every cell and return what became of each, in their order.

    Args:
        cells: words of the command line of each.
        audience: hears of it while it happens.
        workers: processes at a time.
        minutes: longest time of one cell; None is without end.
    """
    waiting = deque(Job(number=number, words=tuple(words)) for number, words in enumerate(cells))
    told: dict[int, Cell] = {}
    crew = [_Worker(audience) for _ in range(min(workers, len(cells)))]
    try:
        while len(told) < len(cells):
            for worker in crew:
                if worker.job is None and waiting:
                    worker.ask(waiting.popleft())
            wait([worker.pipe for worker in crew if worker.job], timeout=LOOK)
            for worker in crew:
                _look(worker, told, waiting, minutes)
    finally:
        for worker in crew:
            worker.end()
    return [told[number] for number in range(len(cells))]


def _look(worker: _Worker, told: dict[int, Cell], waiting: deque[Job], minutes: float | None) -> None:
    """Hear a worker's answer, or find out that there will be none."""
    job = worker.job
    if job is None:
        return
    answer, reason = worker.answer(), ""
    if answer is None and not worker.process.is_alive():
        answer = worker.answer()  # its last word may have come in between
        reason = "" if answer else _epitaph(worker.process)
    elif answer is None and minutes is not None and time.monotonic() - worker.since > 60 * minutes:
        worker.end()
        reason = f"took longer than cell_minutes={minutes:g}"
    if reason and not job.reason:
        waiting.appendleft(Job(number=job.number, words=job.words, reason=reason))
        worker.job = None
    elif reason:
        answer = Cell(words=job.words, code=FAILED, sentence=f"{job.reason}; its failed record could not be written either: {reason}")
    if answer is not None:
        told[job.number], worker.job = answer, None
        worker.audience.finished(job.number, answer)


def _epitaph(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode or 0
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed by {name}" + (", as happens when memory runs out" if name == "SIGKILL" else "")
    return f"its process ended by itself, with code {code}"


@dataclass(eq=False)
class _Worker:
    """A process that is replaced when it is gone."""

    audience: Audience
    job: Job | None = None
    since: float = 0.0
    process: SpawnProcess = field(init=False)
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, job: Job) -> None:
        if not self.process.is_alive():
            self._start()
        self.job, self.since = job, time.monotonic() + START
        self.pipe.send(job)

    def answer(self) -> Cell | None:
        """Pass on what has been said, and return the end of it if it came."""
        assert self.job is not None
        try:
            while self.pipe.poll():
                match self.pipe.recv():
                    case Cell() as cell:
                        return cell
                    case "begun":
                        self.since = time.monotonic()
                    case (int() as level, str() as message):
                        self.audience.log(self.job.number, level, message)
                    case (str() as label, int() as done, int() as total):
                        self.audience.progress(self.job.number, label, done, total)
        except (EOFError, OSError):
            pass  # it is dead, as its process will say
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _Sender(logging.Handler):
    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self.pipe.send((record.levelno, record.getMessage()))


def _serve(pipe: Connection) -> None:
    """Answer jobs until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the one who asks
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    importlib.import_module("poisonbench.pipeline")
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        pipe.send("begun")
        with heard(lambda label, done, total: pipe.send((label, done, total)), _Sender(pipe)):
            pipe.send(buried(job.words, job.reason) if job.reason else computed(job.words))
