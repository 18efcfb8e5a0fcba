"""Convert a record to numbers with flat names, for trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from poisonbench.storage.record import Record

FIGURES = ("c_acc", "asr", "r_acc")
PARTS = {"baseline": "baseline", "undefended": "undefended", "defended": "metrics"}


def figures(record: Record) -> dict[str, list[object]]:
    """Return C-Acc, ASR and R-Acc of each of the three victims; None for a figure that does not apply."""
    return {part: [cast("Mapping[str, object]", getattr(record, name)).get(figure) for figure in FIGURES] for part, name in PARTS.items()}


def numbers(record: Record) -> dict[str, float]:
    """Return every number of a record under names such as "defended/c_acc" and "defended/screen/auroc"."""
    return {f"{part}/{name}": value for part, whole in PARTS.items() for name, value in _flat(getattr(record, whole))}


def _flat(node: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in _flat(value))
        elif isinstance(value, int | float):
            yield name, float(value)


def curve_points(record: Record) -> Iterator[dict[str, float]]:
    """Yield for each round the figures of all victims that have some in this round."""
    curves = cast("Mapping[str, Mapping[str, list[float]]]", record.curves)
    points: dict[float, dict[str, float]] = {}
    for part, curve in curves.items():
        length = max((len(values) for values in curve.values()), default=0)
        rounds = curve.get("round", [float(place + 1) for place in range(length)])
        for name, values in curve.items():
            for number, value in zip(rounds, values, strict=False):
                if name != "round":
                    points.setdefault(number, {"round": number})[f"{part}/{name}"] = value
    yield from (points[number] for number in sorted(points))
