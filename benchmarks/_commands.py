"""Commands that are timed, in this version and in another version of the project."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from poisonbench.sweep.cell import DONE, REFUSED

HOME = Path(__file__).parent.parent


def python(*words: str, home: Path = HOME) -> Callable[[], None]:
    """Return a function that runs Python with these words in a folder that contains the project.

    Raises:
        RuntimeError: when the function runs: the exit code is neither that of a finished run nor that of refused words.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": str(home)}  # as for users

    def work() -> None:
        done = subprocess.run([sys.executable, *words], cwd=home, env=environment, check=False, capture_output=True, text=True)
        if done.returncode not in (DONE, REFUSED):
            raise RuntimeError(f"{' '.join(words)} ended with exit code {done.returncode}: {done.stderr[-500:]}")

    return work


def poisonbench(*words: str, home: Path = HOME) -> Callable[[], None]:
    """Return a function that runs these words of the command line."""
    return python("-m", "poisonbench", *words, home=home)


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a temporary folder with the project at a commit.

    Raises:
        ValueError: there is no such commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "project"
        try:
            known = _git("-C", str(HOME), "rev-parse", "--verify", f"{commit}^{{commit}}")
        except subprocess.CalledProcessError as error:
            raise ValueError(f"{commit} is no commit of this clone") from error
        _git("clone", "--quiet", "--shared", "--no-checkout", str(HOME), str(tree))  # this clone stays unchanged even if the process is killed
        _git("-C", str(tree), "checkout", "--quiet", "--detach", known)
        yield tree


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()
