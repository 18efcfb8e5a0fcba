"""What a command costs before it computes, and a sweep that is asked for a second time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks._timing import in_turns, seconds
from poisonbench.report.benchmarks import Comparison

HOME = Path(__file__).parent.parent
SWEEP = ("-m", "attack=none,backdoor", "defense=none,spectral,random_drop", "seed=100,101,102", "threads=1")


def measure(data: Path | None, *, sweep: tuple[str, ...] = SWEEP, repeats: int = 3) -> Iterator[Comparison]:
    """Yield `list` and `--help` against importing torch, and a second sweep against the first."""
    for word in ("list", "--help"):
        costs = in_turns(_poisonbench(word), _python("-c", "import torch"), repeats=repeats)
        yield Comparison(
            work="start of the command line",
            ours=f"python -m poisonbench {word}",
            alternative="python -c 'import torch'",
            unit="s",
            ours_cost=costs.ours,
            alternative_cost=costs.alternative,
        )
    with tempfile.TemporaryDirectory() as folder:
        run = _poisonbench(*sweep, f"results_dir={folder}")
        first, second = seconds(run), seconds(run)
        cells = len(list((Path(folder) / "records").glob("*.json")))
    yield Comparison(
        work=f"a sweep of {cells} cells on digits",
        ours="the same command again",
        alternative="the first time",
        unit="s",
        ours_cost=(second,),
        alternative_cost=(first,),
    )


def _python(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *words], cwd=HOME, check=True, capture_output=True)


def _poisonbench(*words: str) -> Callable[[], object]:
    return _python("-m", "poisonbench", *words)
