"""Commands that are timed, here and in another version of the project."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from poisonbench.cell import DONE, REFUSED

HOME = Path(__file__).parent.parent
NO_TREE = "is no commit of this clone"


def python(*words: str, home: Path = HOME) -> Callable[[], None]:
    """Return what runs Python with these words in a folder that holds the project.

    Raises:
        RuntimeError: when it runs, and ends with another code than those of a run that is done and of words that are refused.
    """
    told = {**os.environ, "PYTHONPATH": str(home)}

    def work() -> None:
        done = subprocess.run([sys.executable, *words], cwd=home, env=told, check=False, capture_output=True, text=True)
        if done.returncode not in (DONE, REFUSED):
            raise RuntimeError(f"{' '.join(words)} ended with exit code {done.returncode}: {done.stderr[-500:]}")

    return work


def poisonbench(*words: str, home: Path = HOME) -> Callable[[], None]:
    """Return what runs these words of the command line."""
    return python("-m", "poisonbench", *words, home=home)


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a folder with the project as it was at a commit; it is gone afterwards.

    Raises:
        ValueError: there is no such commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "project"
        done = subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], cwd=HOME, check=False, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{commit} {NO_TREE}: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=HOME, check=True, capture_output=True)
