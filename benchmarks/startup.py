"""The start-up cost of a command, and of a sweep that is run a second time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._commands import poisonbench, python
from benchmarks._options import Options
from benchmarks._timing import in_turns, seconds
from poisonbench.report.benchmarks import Comparison

COMMANDS = (("list",), ("--help",), ("describe", "badnets"), ("report", "--help"), ("attack=bakdoor",))
RUN = ("attack=backdoor", "defense=spectral", "seed=100", "threads=1")
SWEEP = ("-m", "attack=none,backdoor", "defense=none,spectral,random_drop", "seed=100,101,102", "threads=1")


def measure(options: Options, *, run: tuple[str, ...] = RUN, sweep: tuple[str, ...] = SWEEP, repeats: int = 5) -> Iterator[Comparison]:
    """Yield commands and a run found in the store against importing torch, and the second run of a sweep against the first."""
    with tempfile.TemporaryDirectory() as folder:
        for words in (*COMMANDS, (*run, f"results_dir={folder}")):
            costs = in_turns(poisonbench(*words), python("-c", "import torch"), repeats=repeats)  # the run computes only in the warm-up
            stored = words[: len(run)] == run
            yield Comparison(
                work="a run found whole in the store" if stored else "start of the command line",
                ours=f"python -m poisonbench {' '.join(run if stored else words)}",
                alternative="python -c 'import torch'",
                unit="s",
                ours_cost=costs.ours,
                alternative_cost=costs.alternative,
                facts=costs.cpu,
            )
    with tempfile.TemporaryDirectory() as folder:
        command = poisonbench(*sweep, f"results_dir={folder}")
        first, second = seconds(command), seconds(command)
        cells = len(list((Path(folder) / "records").glob("*.json")))
    yield Comparison(
        work=f"a sweep of {cells} cells on digits",
        ours="the same command again",
        alternative="the first time",
        unit="s",
        ours_cost=(second,),
        alternative_cost=(first,),
    )
