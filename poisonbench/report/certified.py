"""Certified accuracy against the radius, for the records of one experiment, and what attacks of that size do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from poisonbench.record import Record
from poisonbench.report.curves import band, words_of
from poisonbench.report.experiments import belonging, swept, value_of
from poisonbench.report.figures import radii, radius_unit
from poisonbench.stats import over_seeds

HIDDEN = ("seed", "attack", "task", "task.root", "+experiment")
STYLES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "D")


def of(records: Sequence[Record], experiment: str) -> list[Record]:
    """Return the records of an experiment that have a certificate."""
    return [record for record in belonging([record for record in records if record.status == "done"], experiment) if "certified" in record.metrics]


def promises(attacked: Sequence[Record], records: Sequence[Record]) -> dict[str, Record]:
    """Return, by the key of each attacked record, the record of the same run without an attack, if there is one: its certificate speaks of any attack."""
    clean = {_bare(record): record for record in records if record.status == "done" and not record.counts["poisoned"] and "certified" in record.metrics}
    return {record.key: clean[_bare(record)] for record in attacked if record.counts["poisoned"] and _bare(record) in clean}


def changed(record: Record) -> int | None:
    """Return how many changes an attack made, in the unit of the record's radii.

    None where that unit does not count what was changed, where a record does not say it, or where each trial has an attack of its own.
    """
    told, unit = record.metrics.get("changed_rows"), radius_unit(record)
    if not isinstance(told, Mapping) or not told or "trials" in record.counts:
        return None
    return sum(map(int, told.values())) if all(str(kind).partition(" ")[0] in unit for kind in told) else None


def _bare(record: Record) -> str:
    """Return a specification without the attack and its threat, as text."""
    return json.dumps({name: part for name, part in record.spec.items() if name not in ("attack", "threat")}, sort_keys=True)


def draw(mine: Sequence[Record], records: Sequence[Record], path: Path) -> None:
    """Write an SVG or a PDF: the share of test rows that no change of so many rows can turn, means over seeds with their range as a band.

    A line a defense and setting. Where all records are attacked and have partners without an attack, the lines are those of the partners. The accuracy under
    an attack stands beside them as a point where the unit of the radii counts what that attack changes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    partners = promises(mine, records)
    whole = all(record.key in partners for record in mine)
    attacked = [(record, count) for record in mine if whole and (count := changed(record)) is not None]
    proved = list({record.key: record for record in partners.values()}.values()) if whole else mine
    key, lines, points = swept(proved), dict[str, list[Sequence[float]]](), dict[str, dict[int, list[float]]]()
    units = sorted({radii(record) for record in proved})
    for record in proved:
        label = _label(record, key) + (f", in {radii(record)}" if len(units) > 1 else "")
        lines.setdefault(label, []).append(cast("Sequence[float]", record.metrics["certified"]))
    for record, count in attacked:
        there = points.setdefault(_under(record), {}).setdefault(count, [])
        there.append(float(cast("float", record.metrics["c_acc"])))
    with mpl.rc_context({"svg.hashsalt": "poisonbench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axis = figure.subplots()
        for number, (label, curves) in enumerate(sorted(lines.items())):
            longest = max(map(len, curves))
            padded = [[*curve, *[0.0] * (longest - len(curve))] for curve in curves]
            mean = [sum(shares) / len(shares) for shares in zip(*padded, strict=True)]
            (drawn,) = axis.step(range(longest), mean, where="post", linestyle=STYLES[number % len(STYLES)], label=f"proved: {label}" if attacked else label)
            axis.fill_between(range(longest), *band(padded), step="post", color=drawn.get_color(), alpha=0.15, linewidth=0)
        for number, (label, heights) in enumerate(sorted(points.items())):
            places = sorted(heights)
            found = [over_seeds(heights[place]) for place in places]
            bars = ([mean - smallest for mean, smallest, _ in found], [largest - mean for mean, _, largest in found])
            axis.errorbar(places, [mean for mean, _, _ in found], bars, fmt=MARKS[number % len(MARKS)], markersize=4, capsize=2, label=f"under {label}")
        axis.set_xlabel(units[0] if len(units) == 1 else "radius, in the unit of each line")
        axis.set_ylabel("accuracy" if attacked else "certified accuracy")
        axis.set_ylim(0, 1)
        axis.set_xscale("log" if attacked else "linear")
        axis.set_xlim(1 if attacked else 0, None)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
        bare = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
        figure.savefig(path, format=path.suffix[1:], metadata=bare)


def _under(record: Record) -> str:
    """Return an attack and the settings of its command."""
    words = words_of(record.command)
    attack = record.spec["attack"]
    named = str(attack["name"]) if isinstance(attack, Mapping) else str(attack)
    return ", ".join([named, *(f"{name.rpartition('.')[2]}={value}" for name, value in sorted(words.items()) if name.startswith("attack."))])


def _label(record: Record, key: str | None) -> str:
    """Return what tells a line from its neighbours: the defense, the swept key, and the words of its command."""
    words = {name: value for name, value in words_of(record.command).items() if name.partition("@")[0] not in HIDDEN and name != "defense"}
    if key and (value := value_of(record, key)) is not None:
        words[key] = f"{value:g}"
    defense = record.spec["defense"]
    named = str(defense["name"]) if isinstance(defense, Mapping) else str(defense)
    return ", ".join([named, *(f"{name.rpartition('.')[2]}={value}" for name, value in sorted(words.items()))])
