"""Measured costs: our code and a named alternative do the same work in the same run. Imports no torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded, write_text
from poisonbench.report.figures import markdown

SCHEMA = 1
COLUMNS = ("benchmark", "work", "ours", "alternative", "ratio")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The cost of one piece of work, done in two ways.

    Args:
        work: what is done, with its sizes.
        ours: which part of our code does it.
        alternative: what it is compared with.
        unit: "s" or "MiB"; less is better in both.
        ours_cost: of each repetition.
        alternative_cost: of each repetition, alternating with ours.
        note: further observations, or why a figure is a projection.
        facts: further figures of this comparison.
    """

    work: str
    ours: str
    alternative: str
    unit: str
    ours_cost: tuple[float, ...]
    alternative_cost: tuple[float, ...]
    note: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Median cost of the alternative over the median of ours."""
        return statistics.median(self.alternative_cost) / statistics.median(self.ours_cost)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The comparisons of one script, made in one run.

    Args:
        name: of the script.
        comparisons: what it measured.
        machine: processor, cores, threads, device, versions, commit.
    """

    name: str
    comparisons: tuple[Comparison, ...]
    machine: Mapping[str, object]

    def write(self, folder: Path) -> Path:
        """Write the benchmark into `folder`, in place of an earlier run, and return its path."""
        path = folder / f"{self.name}.json"
        write_text(path, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False) + "\n")
        return path


def read(path: Path) -> Benchmark:
    """Read a benchmark.

    Raises:
        DataError: a file of another form.
    """
    try:
        whole = json.loads(bounded(path.read_text(encoding="utf-8")))
        if whole.pop("schema") != SCHEMA:
            raise DataError(f"{path} has another schema; this version reads schema {SCHEMA}")
        listed = [
            Comparison(**each | {"ours_cost": tuple(each["ours_cost"]), "alternative_cost": tuple(each["alternative_cost"])})
            for each in whole.pop("comparisons")
        ]
        return Benchmark(**whole, comparisons=tuple(listed))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a benchmark of poisonbench ({type(error).__name__}: {error})") from error


def table(benchmarks: Sequence[Benchmark]) -> str:
    """Return a Markdown table with one row per comparison."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS)]
    for benchmark in benchmarks:
        for each in benchmark.comparisons:
            note = f" ({each.note})" if each.note else ""
            pair = (f"{each.ours}: {_median(each.ours_cost, each.unit)}", f"{each.alternative}: {_median(each.alternative_cost, each.unit)}")
            lines.append((benchmark.name, f"{each.work}{note}", *pair, f"{each.ratio:.3g}"))
    return markdown(lines)


def _median(costs: Sequence[float], unit: str) -> str:
    cost = statistics.median(costs)
    return f"{cost:,.0f} {unit}" if cost >= 1000 else f"{cost:.3g} {unit}"
