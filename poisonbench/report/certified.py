"""Certified accuracy against the radius, for the records of one experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from poisonbench.record import Record
from poisonbench.report.curves import words_of
from poisonbench.report.experiments import belonging, swept, value_of

HIDDEN = ("seed", "attack", "task", "task.root", "+experiment")
STYLES = ("-", "--", ":", "-.")


def of(records: Sequence[Record], experiment: str) -> list[Record]:
    """Return the records of an experiment that have a certificate."""
    return [record for record in belonging([record for record in records if record.status == "done"], experiment) if "certified" in record.metrics]


def draw(records: Sequence[Record], path: Path) -> None:
    """Write an SVG or a PDF: a line a defense and setting, means over seeds; the share of test rows that no change of so many rows can turn."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines: dict[str, list[Sequence[float]]] = {}
    key = swept(records)
    for record in records:
        lines.setdefault(_label(record, key), []).append(cast("Sequence[float]", record.metrics["certified"]))
    with mpl.rc_context({"svg.hashsalt": "poisonbench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axis = figure.subplots()
        for number, (label, curves) in enumerate(sorted(lines.items())):
            longest = max(map(len, curves))
            mean = [sum(curve[radius] if radius < len(curve) else 0.0 for curve in curves) / len(curves) for radius in range(longest)]
            axis.step(range(longest), mean, where="post", linestyle=STYLES[number % len(STYLES)], label=label)
        axis.set_xlabel("changed training rows")
        axis.set_ylabel("certified accuracy")
        axis.set_ylim(0, 1)
        axis.set_xlim(0, None)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
        bare = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
        figure.savefig(path, format=path.suffix[1:], metadata=bare)


def _label(record: Record, key: str | None) -> str:
    """Return what tells a line from its neighbours: the defense, the swept key, and the words of its command."""
    words = {name: value for name, value in words_of(record.command).items() if name.partition("@")[0] not in HIDDEN and name != "defense"}
    if key and (value := value_of(record, key)) is not None:
        words[key] = f"{value:g}"
    defense = record.spec["defense"]
    named = str(defense["name"]) if isinstance(defense, Mapping) else str(defense)
    return ", ".join([named, *(f"{name.rpartition('.')[2]}={value}" for name, value in sorted(words.items()))])
