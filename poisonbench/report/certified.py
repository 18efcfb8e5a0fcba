"""Draw certified accuracy over the radius for one experiment, together with accuracy under attacks of that size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.report.curves import band, words_of
from poisonbench.report.experiments import belonging, swept, value_of
from poisonbench.report.figures import failed_seeds, name_of, radii, radius_unit
from poisonbench.stats import over_seeds
from poisonbench.storage.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIDDEN = ("seed", "attack", "task", "task.root", "+experiment")
STYLES = ("-", "--", ":", "-.")
MARKS = ("o", "s", "^", "D")
NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


def of(records: Sequence[Record], experiment: str) -> list[Record]:
    """Return the records of an experiment with a certificate, and failed records of such runs; empty if all of them failed."""
    mine = [record for record in belonging([record for record in records if record.status != "skipped"], experiment) if _certifies(record)]
    return mine if any(record.status == "done" for record in mine) else []


def _certifies(record: Record) -> bool:
    defense = record.spec.get("defense")
    return "certified" in record.metrics or (record.status == "failed" and isinstance(defense, Mapping) and "certify" in defense)


def promises(attacked: Sequence[Record], records: Sequence[Record]) -> dict[str, Record]:
    """Return, by the key of each attacked record, the record of the same run without an attack, if it exists: its certificate covers any attack.

    A failed run has no certificate; it is returned as well, so that a figure can count it.
    """
    known = sorted(records, key=lambda record: record.status == "done")  # of two with the same specification the last is used: a done one
    clean = {_bare(record): record for record in known if record.status != "skipped" and not _attacked(record) and _certifies(record)}
    return {record.key: clean[_bare(record)] for record in attacked if _attacked(record) and _bare(record) in clean}


def _attacked(record: Record) -> bool:
    return bool(record.counts.get("poisoned")) if record.status == "done" else name_of(record, "attack") != "none"


def changed(record: Record) -> int | None:
    """Return how many changes an attack made, in the unit of the record's radii.

    None if the unit counts other changes, if the record does not contain the number, or if each trial has its own attack.
    """
    counts, unit = record.metrics.get("changed_rows"), radius_unit(record)
    if not isinstance(counts, Mapping) or not counts or "trials" in record.counts:
        return None
    return sum(map(int, counts.values())) if all(str(kind).partition(" ")[0] in unit for kind in counts) else None


def _bare(record: Record) -> str:
    """Return a specification without the attack and its threat, as text."""
    return json.dumps({name: part for name, part in record.spec.items() if name not in ("attack", "threat")}, sort_keys=True)


def draw(mine: Sequence[Record], records: Sequence[Record], path: Path) -> None:
    """Write an SVG or a PDF: the share of test rows whose right answer no attack of a given size can change; means over seeds, their range as a band.

    There is one line per defense and setting. If all records are attacked and have partners without an attack, the lines are those of the partners, and
    the accuracy under an attack is a point where the unit of the radii counts the changes of that attack. A failed seed has neither a curve nor a number
    of changes; the legend counts the failed seeds.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    partners = promises(mine, records)
    whole = all(record.key in partners for record in mine)
    attacked = [record for record in mine if whole and (record.status == "failed" or changed(record) is not None)]
    proved = list({record.key: record for record in partners.values()}.values()) if whole else mine
    units = sorted({radii(record) for record in proved if record.status == "done"})
    with mpl.rc_context({"svg.hashsalt": "poisonbench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axis = figure.subplots()
        _lines(axis, _grouped(proved, _labels(proved, with_unit=len(units) > 1)), "proved: " if attacked else "")
        _points(axis, _grouped(attacked, _under))
        axis.set_xlabel(units[0] if len(units) == 1 else "radius, in the unit of each line")
        axis.set_ylabel("accuracy" if attacked else "certified accuracy")
        axis.set_ylim(0, 1)
        axis.set_xscale("log" if attacked else "linear")
        axis.set_xlim(1 if attacked else 0, None)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
        bare = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
        figure.savefig(path, format=path.suffix[1:], metadata=bare)


def _lines(axis: Axes, groups: Mapping[str, Sequence[Record]], prefix: str) -> None:
    for number, (label, found) in enumerate(groups.items()):
        curves = [cast("Sequence[float]", record.metrics["certified"]) for record in found if record.status == "done"]
        longest = max(map(len, curves), default=0)
        padded = [[*curve, *[0.0] * (longest - len(curve))] for curve in curves]
        mean = [sum(shares) / len(shares) for shares in zip(*padded, strict=True)]
        named, style = f"{prefix}{label}{failed_seeds(found)}", STYLES[number % len(STYLES)]
        (drawn,) = axis.step(range(longest), mean, where="post", linestyle=style, label=named)
        axis.fill_between(range(longest), *band(padded), step="post", color=drawn.get_color(), alpha=0.15, linewidth=0)


def _points(axis: Axes, groups: Mapping[str, Sequence[Record]]) -> None:
    for number, (label, found) in enumerate(groups.items()):
        heights: dict[int, list[float]] = {}
        for record in found:
            if (count := changed(record)) is not None:
                heights.setdefault(count, []).append(float(cast("float", record.metrics["c_acc"])))
        spreads = [over_seeds(heights[place]) for place in sorted(heights)]
        bars = ([mean - smallest for mean, smallest, _ in spreads], [largest - mean for mean, _, largest in spreads])
        named, mark = f"under {label}{failed_seeds(found)}", MARKS[number % len(MARKS)]
        axis.errorbar(sorted(heights), [mean for mean, _, _ in spreads], bars, fmt=mark, markersize=4, capsize=2, label=named)


def _grouped(records: Sequence[Record], label: Callable[[Record], str]) -> dict[str, list[Record]]:
    """Return the records by their label, sorted by label; 50 comes before 250."""
    return {text: [record for record in records if label(record) == text] for text in sorted({label(record) for record in records}, key=_by_number)}


def _by_number(label: str) -> list[tuple[str, float]]:
    """Return the parts of a label, each a text and the number after it."""
    *pairs, last = NUMBER.split(label)
    return [*zip(pairs[::2], map(float, pairs[1::2]), strict=True), (last, 0.0)]


def _labels(records: Sequence[Record], *, with_unit: bool) -> Callable[[Record], str]:
    """Return a function from a record to the label of its line; a failed record has no unit and takes that of the line with its name."""
    key = swept(records)
    units = {_label(record, key): radii(record) for record in records if record.status == "done"}

    def label(record: Record) -> str:
        plain = _label(record, key)
        unit = radii(record) if record.status == "done" else units.get(plain)
        return f"{plain}, in {unit}" if with_unit and unit else plain

    return label


def _under(record: Record) -> str:
    """Return an attack and the settings of its command."""
    words = words_of(record.command)
    attack = record.spec["attack"]
    named = str(attack["name"]) if isinstance(attack, Mapping) else str(attack)
    return ", ".join([named, *(f"{name.rpartition('.')[2]}={value}" for name, value in sorted(words.items()) if name.startswith("attack."))])


def _label(record: Record, key: str | None) -> str:
    """Return the label of a record's line: the defense, the swept key, and the words of its command."""
    words = {name: value for name, value in words_of(record.command).items() if name.partition("@")[0] not in HIDDEN and name != "defense"}
    if key and (value := value_of(record, key)) is not None:
        words[key] = f"{value:g}"
    defense = record.spec["defense"]
    named = str(defense["name"]) if isinstance(defense, Mapping) else str(defense)
    return ", ".join([named, *(f"{name.rpartition('.')[2]}={value}" for name, value in sorted(words.items()))])
