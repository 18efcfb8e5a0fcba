"""Run many experiments in processes of this machine, so that a crash, a hang or a lack of memory does not stop the others.

A worker runs one cell after the other and reports events. If a worker dies or takes too long, its cell gets a failed record, and a new
worker replaces it.
"""

from __future__ import annotations

import dataclasses
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

from poisonbench.config.setting import Setting
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import heard
from poisonbench.sweep.audience import Audience
from poisonbench.sweep.cell import FAILED, Outcome, buried, computed

LOOK = 0.5  # seconds between two checks of the time
START = 60.0  # seconds in which a new process may import torch; they do not count as time of the cell
SERVER = multiprocessing.get_context("forkserver")  # it runs no computation and so has no threads, which a fork would lose
SERVER.set_forkserver_preload(["poisonbench.runner.pipeline", "poisonbench.learn.central"])  # torch is imported once, however many workers start or die


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell for a worker.

    Args:
        number: of the cell, from 0.
        words: of its command line.
        reason: why the last worker failed; then the failed record is written. With "" the cell is run.
        setting: composed from the words by the parent process; None lets the worker compose it, which takes 80 ms.
    """

    number: int
    words: tuple[str, ...]
    reason: str = ""
    setting: Setting | None = None


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Workers on this machine.

    Args:
        workers: processes at a time; they share the cores unless `threads` is given.
        cell_minutes: longest time of one cell; None is without limit.
    """

    workers: int
    cell_minutes: float | None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.workers < 1 or (self.cell_minutes is not None and not self.cell_minutes > 0):
            raise ConfigError(
                f"engine.workers={self.workers}, engine.cell_minutes={self.cell_minutes}: give 1 worker or more, and a time above 0 or null for no limit"
            )

    @property
    def threads(self) -> int | None:
        """CPU threads of one worker: its share of the cores; None for a single worker, which may use all of them."""
        return max(1, (os.cpu_count() or 1) // self.workers) if self.workers > 1 else None

    def swept(self, cells: Sequence[Sequence[str]], audience: Audience) -> list[Outcome]:
        """Run every cell and return the outcome of each, in the order of `cells`."""
        waiting = deque(Job(number=number, words=tuple(words)) for number, words in enumerate(cells))
        outcomes: dict[int, Outcome] = {}
        crew = [_Worker(audience) for _ in range(min(self.workers, len(cells)))]
        try:
            while len(outcomes) < len(cells):
                for worker in crew:
                    if worker.job is None and waiting:
                        worker.ask(waiting.popleft())
                wait([worker.pipe for worker in crew if worker.job], timeout=LOOK)
                for worker in crew:
                    _look(worker, outcomes, waiting, self.cell_minutes)
        finally:
            for worker in crew:
                worker.end()
        return [outcomes[number] for number in range(len(cells))]


def _look(worker: _Worker, outcomes: dict[int, Outcome], waiting: deque[Job], minutes: float | None) -> None:
    """Receive a worker's answer, or find out that it died or takes too long."""
    job = worker.job
    if job is None:
        return
    answer, reason = worker.answer(), ""
    if answer is None and not worker.process.is_alive():
        answer = worker.answer()  # it may have answered between the two checks
        reason = "" if answer else _cause(worker.process)
    elif answer is None and minutes is not None and time.monotonic() - worker.since > 60 * minutes:
        worker.end()
        reason = f"took longer than cell_minutes={minutes:g}"
    if reason and not job.reason:
        waiting.appendleft(Job(number=job.number, words=job.words, reason=reason))
        worker.job = None
    elif reason:
        answer = Outcome(words=job.words, code=FAILED, sentence=f"{job.reason}; the failed record could not be written either: {reason}")
    if answer is not None:
        outcomes[job.number], worker.job = answer, None
        worker.audience.finished(job.number, answer)


def _cause(process: ForkServerProcess) -> str:
    """Return why a process ended."""
    process.join()
    code = process.exitcode or 0
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed by {name}" + (", as happens when memory runs out" if name == "SIGKILL" else "")
    return f"its process exited without an answer, with code {code}"


@dataclass(eq=False)
class _Worker:
    """A process that is replaced if it has died."""

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
        self.pipe.send(dataclasses.replace(job, setting=_setting(job.words)))

    def answer(self) -> Outcome | None:
        """Pass the received events to the audience; return the finished cell if there is one."""
        assert self.job is not None
        try:
            while self.pipe.poll():
                match self.pipe.recv():
                    case Outcome() as cell:
                        return cell
                    case "begun":
                        self.since = time.monotonic()
                    case (int() as level, str() as message):
                        self.audience.log(self.job.number, level, message)
                    case (str() as label, int() as done, int() as total):
                        self.audience.progress(self.job.number, label, done, total)
        except (EOFError, OSError):
            pass  # the process has died; `_look` finds this out
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _setting(words: Sequence[str]) -> Setting | None:
    """Return the setting of a cell; None for a mistake, which the worker then reports."""
    try:
        return Setting.of(words)
    except ConfigError:
        return None


class _Sender(logging.Handler):
    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self.pipe.send((record.levelno, record.getMessage()))


def _serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    """Run jobs until the pipe is closed, with the parent's environment: the fork server's is as old as its start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles an interrupt
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    from poisonbench.runner.experiment import Loaded

    loaded = Loaded()
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        pipe.send("begun")
        with heard(lambda label, done, total: pipe.send((label, done, total)), _Sender(pipe)):
            pipe.send(buried(job.words, job.reason) if job.reason else computed(job.words, job.setting, loaded))
