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

Scale: TypeAlias = Literal["given", "data", "class"]
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

    The scale is the distance between the quantiles LOW and LOWEST, of the data set or of the row's class.
    """
    import torch

    values = suspicion_N.double()
    if scale == "given":
        return values
    if scale == "data":
        return _relative(values)
    found = torch.zeros_like(values)
    for label in labels_N.unique().tolist():
        rows = labels_N == label
        found[rows] = _relative(values[rows])
    return found


def _relative(values_R: Tensor) -> Tensor:
    import torch

    low, lowest = values_R.quantile(LOW), values_R.quantile(LOWEST)
    width = low - lowest
    return (values_R - low) / width if width > 0 else torch.zeros_like(values_R)


def tails(strength_N: Tensor, clean: Sequence[Sketch]) -> Tensor:
    """Return (N,) float64, the share of clean rows with at least this strength; each task has the same weight.

    A strength beyond all C clean rows has the share 1 / (C + 1), so no row has 0.
    """
    import torch

    rows = sum(sketch.rows for sketch in clean)
    return torch.stack([sketch.share(strength_N) for sketch in clean]).mean(0).clamp_min(1 / (rows + 1))


def evidence(shares: Mapping[str, Tensor], kinds: Mapping[str, str]) -> dict[str, Tensor]:
    """Return (N,) float64 for each kind: the mean of -log of the shares of its filters (Fisher's statistic, divided by their number).

    Args:
        shares: (N,) of each filter.
        kinds: what each filter finds.
    """
    import torch

    return {
        kind: torch.stack([-share.log() for name, share in shares.items() if kinds[name] == kind]).mean(0)
        for kind in dict.fromkeys(kinds[name] for name in shares)
    }


def joined(shares_FN: Tensor) -> Tensor:
    """Return (N,) float64: the smallest of the F shares times F, at most 1 (Bonferroni)."""
    return (shares_FN.min(0).values * len(shares_FN)).clamp_max(1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class CleanRows:
    """What filters find in clean tasks.

    Args:
        filters: for each filter, the sketch of the strengths of each task.
        kinds: for each kind of row, the sketch of the evidence of each task.
    """

    filters: Mapping[str, Mapping[str, Sketch]]
    kinds: Mapping[str, Mapping[str, Sketch]]

    def without(self, task: str) -> CleanRows:
        """Return the same without the tasks whose name begins with this one: what is reported about a task does not depend on it."""

        def others(table: Mapping[str, Mapping[str, Sketch]]) -> dict[str, dict[str, Sketch]]:
            return {name: {key: sketch for key, sketch in sketches.items() if key.split("/")[0] != task} for name, sketches in table.items()}

        return CleanRows(filters=others(self.filters), kinds=others(self.kinds))

    def shares(self, verdicts: Mapping[str, Verdict], finds: Mapping[str, Finds], labels_N: Tensor) -> dict[str, Tensor]:
        """Return (N,) for each filter that states what it finds and was measured: the share of clean rows with at least the strength of a row."""
        known = {name: list(self.filters[name].values()) for name in verdicts if name in finds and self.filters.get(name)}
        return {name: tails(strengths(verdicts[name].suspicion, labels_N, finds[name].scale), clean) for name, clean in known.items()}

    def by_kind(self, verdicts: Mapping[str, Verdict], finds: Mapping[str, Finds], labels_N: Tensor) -> dict[str, Tensor]:
        """Return (N,) for each kind: the share of clean rows with at least the evidence of a row; see `shares` and `evidence`."""
        found = evidence(self.shares(verdicts, finds, labels_N), {name: find.kind for name, find in finds.items()})
        return {kind: tails(values, list(self.kinds[kind].values())) for kind, values in found.items() if self.kinds.get(kind)}


@cache
def clean_rows(path: Path = CLEAN) -> CleanRows:
    """Return the table that `python -m benchmarks.vetting clean` measured.

    Raises:
        DataError: the file is missing or damaged.
    """
    import torch

    try:
        whole = json.loads(path.read_text(encoding="utf-8"))

        def table(name: str) -> dict[str, dict[str, Sketch]]:
            return {
                key: {
                    task: Sketch(shares=torch.tensor(told["shares"]).double(), reached=torch.tensor(told["reached"]).double(), rows=int(told["rows"]))
                    for task, told in tasks.items()
                }
                for key, tasks in whole[name].items()
            }

        return CleanRows(filters=table("filters"), kinds=table("kinds"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no table of clean rows ({type(error).__name__}: {error}); install poisonbench again") from error


def told(table: CleanRows) -> dict[str, object]:
    """Return a table as JSON."""

    def rows(part: Mapping[str, Mapping[str, Sketch]]) -> dict[str, object]:
        return {
            name: {
                task: {
                    "rows": sketch.rows,
                    "shares": [float(f"{share:.6g}") for share in sketch.shares],
                    "reached": [float(f"{value:.7g}") for value in sketch.reached],
                }
                for task, sketch in sorted(sketches.items())
            }
            for name, sketches in sorted(part.items())
        }

    return {"filters": rows(table.filters), "kinds": rows(table.kinds)}
