"""What is measured of each seed: figures of a record, their ranges and intervals over seeds. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from poisonbench.report.figures import Failures, defended, net_asr, number
from poisonbench.stats import intervals, over_seeds
from poisonbench.storage.record import Record


class Figure(NamedTuple):
    """A mean over seeds, the smallest and the largest seed, and the ends of the 95 % interval; no interval for what is no proportion."""

    mean: float
    smallest: float
    largest: float
    low: float | None
    high: float | None


def certified(record: Record) -> list[float]:
    """Return certified accuracy over radii, in the record's unit; empty where there is none."""
    curve = record.metrics.get("certified")
    return curve if isinstance(curve, list) else []


def lost(record: Record) -> float | None:
    """Return how much lower C-Acc is than with the model of clean training; 0 where it is higher, as in `net_asr`."""
    after, before = defended(record, "c_acc"), number(record.baseline.get("c_acc"))
    return None if after is None or before is None else max(0.0, before - after)


def _median_radius(record: Record) -> float | None:
    """Return the median radius; -1, the radius of a wrong answer, where fewer than half of the answers are proved right at radius 0."""
    return number(record.metrics.get("median_radius", -1.0 if certified(record) else None))


PROPORTIONS: dict[str, Callable[[Record], float | None]] = {
    "c_acc": lambda record: defended(record, "c_acc"),
    "asr": lambda record: defended(record, "asr"),
    "net_asr": net_asr,
    "c_acc_lost": lost,
    "r_acc": lambda record: number(record.metrics.get("r_acc")),
    "undefended_c_acc": lambda record: number(record.undefended.get("c_acc")),
    "undefended_asr": lambda record: number(record.undefended.get("asr")),
    "undefended_r_acc": lambda record: number(record.undefended.get("r_acc")),
    "clean_c_acc": lambda record: number(record.baseline.get("c_acc")),
    "clean_asr": lambda record: number(record.baseline.get("asr")),
    "tpr": lambda record: number(record.metrics.get("tpr")),
    "fpr": lambda record: number(record.metrics.get("fpr")),
    "auroc": lambda record: number(record.metrics.get("auroc_in_class")),
    "cover_removed": lambda record: number(record.metrics.get("cover_removed")),
    "certified": lambda record: curve[0] if (curve := certified(record)) else None,
}
FIGURES: dict[str, Callable[[Record], float | None]] = {
    **PROPORTIONS,
    "cover": lambda record: number(record.counts.get("cover")),
    "median_radius": _median_radius,
    "epsilon": lambda record: number(record.facts.get("epsilon")),
    "seconds": lambda record: math.fsum(map(float, seconds.values())) if isinstance(seconds := record.cost.get("seconds"), Mapping) else None,
}


def values_of(records: Sequence[Record], failures: Failures) -> dict[str, list[float]]:
    """Return every figure of a cell by its seeds; a failed one counts, a skipped one does not."""
    by_seed: list[Mapping[str, float | None]] = [{name: figure(record) for name, figure in FIGURES.items()} for record in records if record.status == "done"]
    by_seed += [failed(record, failures) for record in records if record.status == "failed"]
    values = {name: [value for figures in by_seed if (value := figures.get(name)) is not None] for name in FIGURES}
    return {name: several for name, several in values.items() if several}


def failed(record: Record, failures: Failures) -> dict[str, float]:
    """Return the figures that a failed seed counts with; its C-Acc is that of chance, where clean training might have reached 1."""
    figures = failures.figures(record)
    return figures | {"c_acc_lost": 1 - figures["c_acc"]}


def figures_of(values: Sequence[Mapping[str, list[float]]]) -> list[dict[str, Figure]]:
    """Return the figures of cells from their values by seed; all intervals are computed together, which is faster."""
    asked = [(place, name) for place, cell in enumerate(values) for name in cell if name in PROPORTIONS]
    ends = dict(zip(asked, intervals([values[place][name] for place, name in asked]), strict=True))
    return [
        {name: Figure(*over_seeds(several), *(ends.get((place, name)) or (None, None))) for name, several in cell.items()} for place, cell in enumerate(values)
    ]
