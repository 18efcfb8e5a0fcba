"""Draw what a filter that keeps a share of the rows does: the poison that it keeps, ASR and C-Acc against that share, for several attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.report.experiments import belonging, experiment_of, value_of
from poisonbench.report.figures import Failures, defended, failed_seeds, name_of, number
from poisonbench.stats import over_seeds
from poisonbench.storage.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARE = "defense.sanitize.share"
ROWS = ("poison kept", "ASR", "C-Acc")
FIGURES = {"ASR": "asr", "C-Acc": "c_acc"}
Spots = dict[float, list[float]]


def of(records: Sequence[Record], experiment: str) -> list[Record]:
    """Return the records of an experiment whose filter keeps a share of the rows; empty if none of them is done.

    Attacks that need settings of their own have a part of the experiment for themselves, whose name begins with that of the experiment and "_".
    """
    known = [record for record in records if record.status != "skipped"]
    names = {name for record in known if (name := experiment_of(record)) == experiment or name.startswith(f"{experiment}_")}
    found = {id(record): record for name in sorted(names) for record in belonging(known, name) if value_of(record, SHARE) is not None}
    return list(found.values()) if any(record.status == "done" for record in found.values()) else []


def draw(mine: Sequence[Record], records: Iterable[Record], path: Path) -> None:
    """Write an SVG or a PDF: one column per attack, one line per setting of the filter; means over seeds, bars from the smallest seed to the largest.

    At a share of 1 stands the undefended victim of the same seeds, which is trained on all rows. A dotted line is C-Acc, or ASR, of clean training on all
    rows. A failed seed counts as it does in tables, and the legend counts the failed seeds.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    failures, label = Failures.among(records), _labels(mine)
    attacks, lines = sorted({name_of(record, "attack") for record in mine}), sorted({label(record) for record in mine})
    rows = [row for row in ROWS if any(_spots(mine, row, failures))]
    with mpl.rc_context({"svg.hashsalt": "poisonbench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(1.0 + 1.9 * len(attacks), 0.6 + 1.5 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(attacks), squeeze=False, sharex=True)
        for row, across in zip(rows, axes, strict=True):
            for attack, axis in zip(attacks, across, strict=True):
                here = [record for record in mine if name_of(record, "attack") == attack]
                _fill(axis, {line: _spots([record for record in here if label(record) == line], row, failures) for line in lines})
                _clean(axis, here, row)
            across[0].set_ylabel(row)
        for attack, first, last in zip(attacks, axes[0], axes[-1], strict=True):
            first.set_title(attack, fontsize=8)
            last.set_xlabel("share of rows kept")
        named = [line + failed_seeds(record for record in mine if label(record) == line) for line in lines]
        figure.legend(axes[-1][0].containers, named, loc="outside right upper", fontsize=7, frameon=False)
        bare = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
        figure.savefig(path, format=path.suffix[1:], metadata=bare)


def _labels(mine: Sequence[Record]) -> Callable[[Record], str]:
    """Return a function from a record to its line: the fields of the filter, besides the share, that differ between records."""
    fields = [cast("Mapping[str, object]", cast("Mapping[str, object]", record.spec["defense"])["sanitize"]) for record in mine]
    several = [name for name in fields[0] if name != "share" and len({str(field.get(name)) for field in fields}) > 1]

    def label(record: Record) -> str:
        sanitize = cast("Mapping[str, object]", cast("Mapping[str, object]", record.spec["defense"])["sanitize"])
        return ", ".join(str(sanitize.get(name)) for name in several) or name_of(record, "defense")

    return label


def _spots(mine: Sequence[Record], row: str, failures: Failures) -> Spots:
    """Return the figures of all seeds by the share of rows that is kept; at 1 those of the undefended victim."""
    spots: Spots = {}
    for record in mine:
        share = cast("float", value_of(record, SHARE))
        kept = {share: _figure(record, row, failures), 1.0: _whole(record, row)}
        for place, value in kept.items():
            if value is not None:
                spots.setdefault(place, []).append(value)
    return dict(sorted(spots.items()))


def _figure(record: Record, row: str, failures: Failures) -> float | None:
    if row in FIGURES:
        return failures.figures(record).get(FIGURES[row], defended(record, FIGURES[row]))
    poisoned = record.counts.get("poisoned", 0)
    return record.counts["poisoned_kept"] / poisoned if poisoned else None


def _whole(record: Record, row: str) -> float | None:
    return number(record.undefended.get(FIGURES[row])) if row in FIGURES else (1.0 if record.counts.get("poisoned") else None)


def _fill(axis: Axes, lines: Mapping[str, Spots]) -> None:
    for nth, spots in enumerate(lines.values()):
        spreads = [over_seeds(values) for values in spots.values()]
        bars = ([mean - smallest for mean, smallest, _ in spreads], [largest - mean for mean, _, largest in spreads])
        style, means = ("-", "--", ":", "-.")[nth % 4], [mean for mean, _, _ in spreads]
        axis.errorbar(list(spots), means, bars, marker="o", markersize=3, capsize=2, linestyle=style, color=f"C{nth % 10}")
    places = sorted({place for spots in lines.values() for place in spots})
    if places:
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.minorticks_off()
        axis.set_ylim(-0.03, 1.03)
        axis.spines[["top", "right"]].set_visible(False)
    else:
        axis.set_axis_off()  # such as ASR of an attack on availability


def _clean(axis: Axes, here: Sequence[Record], row: str) -> None:
    """Draw the mean of clean training on all rows, which an attack without success also reaches."""
    clean = [value for record in here if (value := number(record.baseline.get(FIGURES.get(row, "")))) is not None]
    if clean:
        axis.axhline(over_seeds(clean).mean, color="0.6", linestyle=":", linewidth=1)
