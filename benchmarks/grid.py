"""A whole grid of attacks, defenses and seeds against its distinct trainings alone: the cost of everything else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from benchmarks._commands import poisonbench
from benchmarks._options import Options
from benchmarks._timing import timed
from poisonbench.report.benchmarks import Comparison
from poisonbench.report.tables import published
from poisonbench.storage.record import Record

GRID = (
    "attack=none,badnets,blended,sig,wanet,label_flip,random_label",
    "defense=none,spectral,activation_clustering,knn_outlier,deep_knn,random_drop,oracle,trusted_outlier,fine_tune,strip",
    "seed=100,101,102",
)


def measure(options: Options, *, grid: tuple[str, ...] = GRID) -> Iterator[Comparison]:
    """Yield the comparison; one worker with one thread, so that seconds can be added up."""
    with tempfile.TemporaryDirectory() as folder:
        time = timed(poisonbench("-m", *grid, "threads=1", f"results_dir={folder}"))
        records = published(Path(folder) / "records")
    fits = trainings(records)
    yield Comparison(
        work=f"a grid of {len(records)} cells on digits, {len(fits)} distinct trainings",
        ours="one sweep, workers=1 threads=1",
        alternative="its distinct trainings alone",
        unit="s",
        ours_cost=(time.wall,),
        alternative_cost=(sum(fits.values()),),
        facts={"ours_cpu_s": time.cpu},
    )


def trainings(records: list[Record]) -> dict[str, float]:
    """Return the seconds of each training that was computed for some record, by its key in the store."""
    found = dict[str, float]()
    for record in records:
        seconds = cast("dict[str, float]", record.cost["seconds"])
        stored = cast("list[str]", record.cost["from_store"])
        found |= {key: seconds[stage] for stage, key in record.keys.items() if stage.startswith("fit") and stage not in stored}
    return found
