"""One ranking from several filters: each suspicion becomes a strength, each strength the share of clean rows that reach it, and the shares are joined.

Shape letters: N rows, F filters, Q points of a sketch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from poisonbench.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from poisonbench.core.defense import Finds, Verdict

Scale: TypeAlias = Literal["given", "data", "class", "flag"]
CLEAN = Path(__file__).with_name("clean_rows.json")
LOW, LOWEST = 0.4, 0.1  # quantiles; only less suspicious rows set the scale, so poison in up to half of a class does not widen it
SHARES = (*[1 - place / 50 for place in range(50)], 0.015, 0.01, 0.007, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0002, 0.0001)  # kept in a sketch


@dataclass(frozen=True, eq=False, kw_only=True)
class Sketch:
    """The strengths of the rows of one clean task.

    Args:
        shares: (Q,) float64, descending: the shares of rows.
        reached: (Q,) float64, ascending: the strength that such a share of the rows reaches.
        rows: how many rows there are.
    """

    shares: Tensor
    reached: Tensor
    rows: int

    @property
    def flagged(self) -> float:
        """The share of rows with the largest strength; for a scale of flags, of those that have it."""
        return float(self.shares[-1])

    @classmethod
    def of(cls, strength_N: Tensor) -> Sketch:
        """Keep the strengths at some shares, and the largest one."""
        import torch

        ascending = strength_N.double().sort().values
        count = len(ascending)
        places = [min(count - 1, max(0, count - round(share * count))) for share in (*SHARES, 0.0)]
        reached = ascending[torch.tensor(places)].unique()
        return cls(shares=(count - torch.searchsorted(ascending, reached)).double() / count, reached=reached, rows=count)

    def share(self, strength_N: Tensor) -> Tensor:
        """Return (N,) float64, the share of rows with at least this strength, by linear interpolation; 1 below the smallest and 0 beyond the largest."""
        import torch

        values, last = strength_N.double(), len(self.reached) - 1
        above = torch.searchsorted(self.reached, values)  # the first point that is at least as large
        high, low = above.clamp_max(last), (above - 1).clamp_min(0)
        width = (self.reached[high] - self.reached[low]).clamp_min(1e-300)
        between = self.shares[low] + (self.shares[high] - self.shares[low]) * ((values - self.reached[low]) / width).clamp(0, 1)
        exact = self.reached[high] == values
        found = torch.where(exact | (above == 0), self.shares[high], between)
        return torch.where(above > last, 0.0, found)


def strengths(suspicion_N: Tensor, labels_N: Tensor, scale: Scale) -> Tensor:
    """Return (N,) float64 suspicions on a scale that is comparable between data sets.

    The scale is the distance between the quantiles LOW and LOWEST, of the data set or of the row's class; a flag is 1 or 0.
    """
    import torch

    values = suspicion_N.double()
    if scale == "given":
        return values
    if scale == "flag":
        return (values > 0).double()
    if scale == "data":
        return _relative(values)
    found = torch.zeros_like(values)
    for label in labels_N.unique().tolist():
        rows = labels_N == label
        found[rows] = _relative(values[rows])
    return found


def _relative(values_R: Tensor) -> Tensor:
    import torch

    away = values_R - values_R.quantile(LOW)
    width = -away.quantile(LOWEST)
    if width <= 0 and (above := away[away > 0]).numel():  # the less suspicious rows are equal: the middle of the others gives the scale
        width = above.quantile(0.5)
    return away / width if width > 0 else torch.zeros_like(values_R)


def tails(strength_N: Tensor, clean: Mapping[str, Sketch]) -> Tensor:
    """Return (N,) float64, the share of clean rows with at least this strength; each run has the same weight.

    A strength beyond all of the C rows of the clean tasks has the share 1 / (C + 1), so no row has 0. Several runs of one task have the same rows.

    Args:
        strength_N: of the rows.
        clean: sketches by the names of their runs, TASK/SEED.
    """
    import torch

    rows: dict[str, int] = {}
    for run, sketch in clean.items():
        rows[task_of(run)] = max(rows.get(task_of(run), 0), sketch.rows)
    return torch.stack([sketch.share(strength_N) for sketch in clean.values()]).mean(0).clamp_min(1 / (sum(rows.values()) + 1))


def task_of(run: str) -> str:
    """Return the task of a run."""
    return run.partition("/")[0]


def evidence(shares: Sequence[Tensor]) -> Tensor:
    """Return (N,) float64, the mean of -log of the (N,) shares of several filters: Fisher's statistic, divided by twice their number."""
    import torch

    return torch.stack([-share.log() for share in shares]).mean(0)


def joined(shares_FN: Tensor) -> Tensor:
    """Return (N,) float64: the smallest of the F shares times F, at most 1 (Bonferroni)."""
    return (shares_FN.min(0).values * len(shares_FN)).clamp_max(1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class CleanRows:
    """What filters find in clean tasks.

    Args:
        filters: for each filter, the sketch of the strengths of each run.
        together: for each set of filters of one kind that was measured, its names joined by "+": the sketch of their evidence in each run.
    """

    filters: Mapping[str, Mapping[str, Sketch]]
    together: Mapping[str, Mapping[str, Sketch]]

    def without(self, task: str) -> CleanRows:
        """Return the same without the runs of a task: what is reported about it does not depend on it."""

        def others(table: Mapping[str, Mapping[str, Sketch]]) -> dict[str, dict[str, Sketch]]:
            return {name: {run: sketch for run, sketch in sketches.items() if task_of(run) != task} for name, sketches in table.items()}

        return CleanRows(filters=others(self.filters), together=others(self.together))

    def shares(self, verdicts: Mapping[str, Verdict], finds: Mapping[str, Finds], labels_N: Tensor) -> dict[str, Tensor]:
        """Return (N,) for each filter that states what it finds and was measured: the share of clean rows with at least the strength of a row."""
        known = {name: self.filters[name] for name in verdicts if name in finds and self.filters.get(name)}
        return {name: tails(strengths(verdicts[name].suspicion, labels_N, finds[name].scale), clean) for name, clean in known.items()}

    def by_kind(self, shares: Mapping[str, Tensor], finds: Mapping[str, Finds]) -> dict[str, Tensor]:
        """Return (N,) for each kind: the share of clean rows with at least the evidence of a row.

        Where these filters were measured together, it is that of their evidence; else the smallest share times their number (Bonferroni).
        """
        import torch

        found: dict[str, Tensor] = {}
        for kind in dict.fromkeys(finds[name].kind for name in shares):
            names = sorted(name for name in shares if finds[name].kind == kind)
            measured, own = self.together.get("+".join(names)), [shares[name] for name in names]
            found[kind] = tails(evidence(own), measured) if measured else joined(torch.stack(own))
        return found


@cache
def clean_rows(path: Path = CLEAN) -> CleanRows:
    """Return the table that `python -m benchmarks._vetting clean` measured.

    Raises:
        DataError: the file is missing or damaged.
    """
    import torch

    try:
        whole = json.loads(path.read_text(encoding="utf-8"))

        def exact(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        def table(name: str) -> dict[str, dict[str, Sketch]]:
            return {
                key: {task: Sketch(shares=exact(told["shares"]), reached=exact(told["reached"]), rows=int(told["rows"])) for task, told in tasks.items()}
                for key, tasks in whole[name].items()
            }

        return CleanRows(filters=table("filters"), together=table("together"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no table of clean rows ({type(error).__name__}: {error}); install poisonbench again") from error


def told(table: CleanRows) -> dict[str, object]:
    """Return a table as JSON."""

    def rows(part: Mapping[str, Mapping[str, Sketch]]) -> dict[str, object]:
        return {
            name: {
                task: {"rows": sketch.rows, "shares": sketch.shares.tolist(), "reached": sketch.reached.tolist()} for task, sketch in sorted(sketches.items())
            }
            for name, sketches in sorted(part.items())
        }

    return {"filters": rows(table.filters), "together": rows(table.together)}
