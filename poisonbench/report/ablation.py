"""Draw one experiment as a figure: how results depend on the key that it sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.core.errors import ConfigError
from poisonbench.report.curves import words_of
from poisonbench.report.experiments import belonging, experiment_of, number_of, swept, without
from poisonbench.report.figures import Failures, failed_seeds, number, radii
from poisonbench.stats import over_seeds
from poisonbench.storage.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {"asr": "ASR", "c_acc": "C-Acc", "median_radius": "median certified radius"}
Lines = Mapping[str, Mapping[float, list[Record]]]


def draw(records: Iterable[Record], experiment: str, path: Path) -> None:
    """Write an SVG or a PDF: one panel per measure, one line per defense and other setting; means over seeds, bars from the smallest seed to the largest.

    A failed seed counts as it does in tables. It has no radius, so the legend counts the failed seeds.

    Raises:
        ConfigError: no record of this experiment, or an experiment that does not sweep one key over numbers.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    known = [record for record in records if record.status != "skipped"]
    mine, failures = belonging(known, experiment), Failures.among(known)
    key = swept(record for record in mine if experiment_of(record) == experiment)
    if key is None or not any(record.status == "done" for record in mine):
        command = f"python -m poisonbench +experiment={experiment} publish=true"
        raise ConfigError(f"no records of +experiment={experiment} that sweep a number; make some: {command}")
    lines: dict[str, dict[float, list[Record]]] = {}
    for record, label in zip(mine, labels(mine, experiment, key), strict=True):
        lines.setdefault(label, {}).setdefault(number_of(record, key), []).append(record)
    panels = [name for name in PANELS if any(name in record.metrics for record in mine)]
    with mpl.rc_context({"svg.hashsalt": "poisonbench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(3.6 * len(panels), 3.0), layout="constrained")
        for axis, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _fill(axis, name, lines, failures)
            axis.set_xlabel(key)
        figure.axes[-1].legend(fontsize=7, frameon=False)
        bare = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
        figure.savefig(path, format=path.suffix[1:], metadata=bare)


def labels(records: Sequence[Record], experiment: str, key: str) -> list[str]:
    """Return the name of each record's line: what the experiment varies beside the key and the seed, or the defense if it varies nothing else.

    A record of another command has the name of the experiment's records that differ from it in the key and the seed alone.
    """
    words = [words_of(record.command) if experiment_of(record) == experiment else {} for record in records]
    several = [name for name in sorted({name for each in words for name in each}) if len({each.get(name) for each in words if each}) > 1]
    several = [name for name in several if name not in (key, "seed")]
    found = dict[str, str]()
    for record, each in zip(records, words, strict=True):
        if each:
            bare = [each.get(name, "") if name in ("attack", "defense", "task") else f"{name}={each.get(name, '')}" for name in several]
            found[without(record, key)] = ", ".join(bare) or _defense(record)
    return [found.get(without(record, key), _defense(record)) for record in records]


def _defense(record: Record) -> str:
    defense = record.spec["defense"]
    assert isinstance(defense, Mapping)
    return str(defense["name"])


def heights(line: Mapping[float, Sequence[Record]], name: str, failures: Failures) -> dict[float, list[float]]:
    """Return the values of all seeds at each position of the swept key; failed seeds count as in `failures`."""
    found = {place: [number({**record.metrics, **failures.figures(record)}.get(name)) for record in line[place]] for place in sorted(line)}
    values = {place: [value for value in several if value is not None] for place, several in found.items()}
    return {place: several for place, several in values.items() if several}


def _fill(axis: Axes, name: str, lines: Lines, failures: Failures) -> None:
    places = sorted({place for line in lines.values() for place in line})
    mine = [record for line in lines.values() for records in line.values() for record in records if name in record.metrics]
    units = sorted({radii(record) for record in mine}) if name == "median_radius" else []
    for nth, (defense, line) in enumerate(sorted(lines.items())):
        spreads = {place: over_seeds(several) for place, several in heights(line, name, failures).items()}
        label = defense + failed_seeds(record for several in line.values() for record in several)
        means = [mean for mean, _, _ in spreads.values()]
        bars = ([mean - smallest for mean, smallest, _ in spreads.values()], [largest - mean for mean, _, largest in spreads.values()])
        axis.errorbar(list(spreads), means, bars, marker="o", markersize=3, capsize=2, linestyle=("-", "--", ":", "-.")[nth % 4], label=label)
    least = min((place for place in places if place > 0), default=0)
    if least and places[-1] / least >= 8 and places[0] >= 0:
        axis.set_xscale("log" if places[0] > 0 else "symlog", **({} if places[0] > 0 else {"linthresh": least}))
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.minorticks_off()
    axis.set_ylabel("\n".join([PANELS[name], *units]))
    axis.spines[["top", "right"]].set_visible(False)
