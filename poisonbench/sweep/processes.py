"""Many experiments on this machine, each in a process that may die: no crash, hang or shortage of memory ends the others.

A worker is asked for one cell after the other and answers with events. One that dies, or takes longer than it may, leaves a failed
record behind and is replaced.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import heard
from poisonbench.runner.experiment import Loaded
from poisonbench.sweep.audience import Audience
from poisonbench.sweep.cell import FAILED, Cell, buried, computed

LOOK = 0.5  # seconds between two looks at the clock
START = 60.0  # seconds a first process may take to import torch, which are none of the cell's
SERVER = multiprocessing.get_context("forkserver")  # it imports and computes nothing, so no thread is lost in a fork
SERVER.set_forkserver_preload(["poisonbench.runner.pipeline", "poisonbench.learn.central"])  # torch is imported once, however many workers start or die


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is asked for.

    Args:
        number: of the cell, from 0.
        words: of its command line.
        reason: why its last worker is gone; "" runs it, else its failed record is written.
        tree: its configuration, already composed by the parent process; None lets the worker compose it, in 80 ms.
    """

    number: int
    words: tuple[str, ...]
    reason: str = ""
    tree: Mapping[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Workers on this machine.

    Args:
        workers: processes at a time; cores are shared among them, unless `threads` is given.
        cell_minutes: longest time of one cell; None is without end.
    """

    workers: int
    cell_minutes: float | None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.workers < 1 or (self.cell_minutes is not None and not self.cell_minutes > 0):
            raise ConfigError(f"workers={self.workers}, cell_minutes={self.cell_minutes}: processes from 1, and a time above 0 or null")

    @property
    def threads(self) -> int | None:
        """A worker's share of the cores; one worker alone has all of them."""
        return max(1, (os.cpu_count() or 1) // self.workers) if self.workers > 1 else None

    def swept(self, cells: Sequence[Sequence[str]], audience: Audience) -> list[Cell]:
        """Run every cell and return what became of each, in their order."""
        waiting = deque(Job(number=number, words=tuple(words)) for number, words in enumerate(cells))
        told: dict[int, Cell] = {}
        crew = [_Worker(audience) for _ in range(min(self.workers, len(cells)))]
        try:
            while len(told) < len(cells):
                for worker in crew:
                    if worker.job is None and waiting:
                        worker.ask(waiting.popleft())
                wait([worker.pipe for worker in crew if worker.job], timeout=LOOK)
                for worker in crew:
                    _look(worker, told, waiting, self.cell_minutes)
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


def _epitaph(process: ForkServerProcess) -> str:
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
    process: ForkServerProcess = field(init=False)
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = SERVER.Pipe()
        self.process = SERVER.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, job: Job) -> None:
        if not self.process.is_alive():
            self._start()
        self.job, self.since = job, time.monotonic() + START
        self.pipe.send(dataclasses.replace(job, tree=_tree(job.words)))

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


def _tree(words: Sequence[str]) -> Mapping[str, object] | None:
    """Return a cell's configuration; None for a mistake, which its worker then finds and ends the cell with."""
    try:
        return tree_of(words)
    except ConfigError:
        return None


class _Sender(logging.Handler):
    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self.pipe.send((record.levelno, record.getMessage()))


def _serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    """Answer jobs until nobody asks any more, in the environment of the one who asks: the server has that of its own start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the one who asks
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    importlib.import_module("poisonbench.runner.pipeline")
    loaded = Loaded()
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        pipe.send("begun")
        with heard(lambda label, done, total: pipe.send((label, done, total)), _Sender(pipe)):
            pipe.send(buried(job.words, job.reason) if job.reason else computed(job.words, job.tree, loaded))
