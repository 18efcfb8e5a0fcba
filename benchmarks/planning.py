"""The cost of planning a sweep, of finding a finished one, of filling a page from records, and of storing small values that two processes need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks._commands import poisonbench, python
from benchmarks._options import Options
from benchmarks._timing import Costs, costs_of, in_turns, seconds, timed
from poisonbench.report.benchmarks import Comparison

CELLS = ("attack=none,backdoor,blended,label_flip,sig", "defense=none,spectral,random_drop,knn_outlier,fine_tune", "seed=range(100,140)", "threads=1")
SWEEP = ("attack=none,backdoor", "defense=none,random_drop", "seed=range(100,110)", "threads=1", "learner.epochs=1")
VALUES = """
import sys, torch
from pathlib import Path
from poisonbench.storage.store import Store
folder, count, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store(folder)
for number in range(count)[::step]:
    store.memo("value", (number,), lambda: {"numbers": torch.full((16,), float(number))})
"""


def measure(
    options: Options, *, cells: tuple[str, ...] = CELLS, sweep: tuple[str, ...] = SWEEP, values: int = 10_000, repeats: int = 3
) -> Iterator[Comparison]:
    """Yield planning and a page against importing torch, a finished sweep against the first run, and values found against values computed."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.md"
        page.write_text("<!-- records: digits -->\n<!-- end -->\n", encoding="utf-8")
        for work, words in (("plan of a sweep", ("-m", "--dry-run", *cells, f"results_dir={folder}")), ("page from the records", ("report", str(page)))):
            costs = in_turns(poisonbench(*words), python("-c", "import torch"), repeats=repeats)
            yield _compared(work, f"python -m poisonbench {' '.join(words[:2] if words[0] == '-m' else words[:1])}", "python -c 'import torch'", costs)
        run = poisonbench("-m", *sweep, f"results_dir={folder}")
        first, second = seconds(run), seconds(run)
        found = len(list((Path(folder) / "records").glob("*.json")))
        yield _compared(f"a sweep of {found} cells on digits", "the same command again", "the first time", Costs((second,), (first,), (), ()))
        made, again = (timed(lambda: _two_ask(Path(folder) / "values", values)) for _ in range(2))
        yield _compared(f"{values} values that two processes ask for", "found", "made", costs_of([again], [made]))


def _compared(work: str, ours: str, alternative: str, costs: Costs) -> Comparison:
    return Comparison(
        work=work,
        ours=ours,
        alternative=alternative,
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=costs.alternative,
        facts=costs.cpu if costs.ours_cpu else {},
    )


def _two_ask(folder: Path, count: int) -> None:
    """Run two processes that need the same values, starting from opposite ends."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda step: python("-c", VALUES, str(folder), str(count), step)(), ("1", "-1")))
