"""Trend of the ratios from release to release: one row each, from the published benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from rich.console import Console

from benchmarks._commands import HOME
from poisonbench.core.files import write_text
from poisonbench.report.benchmarks import Benchmark
from poisonbench.report.benchmarks import read as read_benchmark
from poisonbench.storage.record import provenance

SLOWER = 0.9  # a ratio below this share of the one before is printed


class Row(TypedDict):
    """One release.

    Args:
        version: version of poisonbench.
        commit: commit at which the row was made.
        ratios: cost of the alternative / cost of ours, by comparison.
    """

    version: str
    commit: str
    ratios: dict[str, float]


def row(benchmarks: Sequence[Benchmark], version: str, commit: str) -> Row:
    """Return the row of one release: the ratio of each comparison, by processor time where it was measured."""
    ratios = {
        f"{benchmark.name}: {each.work}, {each.ours} against {each.alternative}": round(each.facts.get("cpu_ratio", each.ratio), 3)
        for benchmark in benchmarks
        for each in benchmark.comparisons
    }
    return Row(version=version, commit=commit, ratios=ratios)


def slower(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the comparisons that have lost more than a tenth of their ratio: the ratio before, and now."""
    return {name: (before[name], ratio) for name, ratio in now.items() if name in before and ratio < SLOWER * before[name]}


def read(path: Path) -> list[Row]:
    """Return the rows so far, the oldest first."""
    return cast("list[Row]", json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows."""
    write_text(path, json.dumps(rows, indent=1, allow_nan=False) + "\n")


def main(home: Path = HOME / "results") -> None:
    """Add this version to `results/trend.json`, and print what has become slower since the version before."""
    facts = provenance()
    benchmarks = [read_benchmark(path) for path in sorted((home / "benchmarks").glob("*.json"))]
    versions = cast("Mapping[str, str]", facts["versions"])
    new = row(benchmarks, versions["poisonbench"], str(facts["commit"]))
    path = home / "trend.json"
    before = [old for old in read(path) if old["version"] != new["version"]]
    console = Console(soft_wrap=True, highlight=False, markup=False)
    ratios, last = new["ratios"], before[-1]["ratios"] if before else {}
    for name, (then, now) in slower(last, ratios).items():
        console.print(f"slower: {name}: {then:.3g} before, {now:.3g} now")
    write(path, [*before, new])
    console.print(f"{len(ratios)} ratios of version {new['version']}, after {len(before)} earlier versions: {path}")
