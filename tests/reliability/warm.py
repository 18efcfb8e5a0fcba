"""Commands in separate processes that have already imported everything: one second each instead of four."""

import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

from poisonbench.cli import entry
from poisonbench.sweep import processes

SERVER = multiprocessing.get_context("forkserver")  # it imports and computes nothing, so no thread is lost in a fork
SERVER.set_forkserver_preload(["poisonbench.cli", "poisonbench.sweep.cell", "poisonbench.runner.pipeline", "poisonbench.learn.central", "torch._dynamo"])


def command(*words: str, cwd: Path, largest: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run `poisonbench` and wait for it.

    Args:
        words: of the command line.
        cwd: working directory.
        largest: bytes of a file before the disk seems full.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        child = SERVER.Process(target=_child, args=(words, cwd, largest, (out, err)))
        child.start()
        child.join(120)
        assert child.exitcode is not None, f"{words} takes longer than two minutes"
        return subprocess.CompletedProcess(words, child.exitcode, out.read_text(), err.read_text())


def sweep(words: Sequence[str], folder: Path) -> BaseProcess:
    """Start a sweep that leads a process group of its own and forks its workers, so that only work is under way when it is killed."""
    child = SERVER.Process(target=_sweep, args=(words, folder))
    child.start()
    while child.is_alive() and os.getpgid(child.ident) != child.ident:
        time.sleep(0.001)
    return child


def _sweep(words: Sequence[str], folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    processes.SERVER = multiprocessing.get_context("fork")
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = entry(list(words))
    sys.exit(code)


def _child(words: tuple[str, ...], cwd: Path, largest: int | None, files: tuple[Path, Path]) -> None:
    os.chdir(cwd)
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY) if largest is not None else endless)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = entry(list(words))
    resource.setrlimit(resource.RLIMIT_FSIZE, endless)  # what was said is no file of the command's
    for file, said in zip(files, (out, err), strict=True):
        file.write_text(said.getvalue())
    sys.exit(code)
