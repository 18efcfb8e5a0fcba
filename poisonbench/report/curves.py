"""Draw attack success over federated rounds, one line per aggregation rule."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.core.errors import ConfigError
from poisonbench.report.figures import failed_seeds
from poisonbench.storage.record import Record, words_in

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Panel = tuple[str, str]
PLAIN = ("attack", "defense", "seed", "owners", "threat.rounds")  # only runs without other words are drawn
RULE = ("name", "needs", "aggregate")  # the fields of a defense that is only an aggregation rule


def draw(records: Iterable[Record], path: Path) -> None:
    """Write an SVG of ASR over rounds, with a panel for each way to distribute rows and each range of attacked rounds.

    Lines are means over seeds, bands go from the smallest to the largest seed. Runs with other settings than those of the attack, and
    defenses that act after the last round, are left out. A failed seed has no curve; the legend counts the failed seeds.

    Raises:
        ConfigError: no record has the curve of an attack.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = _panels(records)
    if not panels:
        raise ConfigError("no record contains the rounds of a federated attack; make some with attack=federated publish=true")
    with mpl.rc_context({"svg.hashsalt": "poisonbench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(3.6 * len(panels), 3.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        names = sorted({name for lines in panels.values() for name in lines})
        legend: dict[str, Artist] = {}
        for axis, (panel, lines) in zip(axes, sorted(panels.items()), strict=True):
            legend |= _fill(axis, panel, lines, names)
        axes[0].set_ylabel("ASR of the defended model")
        labels = {name: name + failed_seeds(record for lines in panels.values() for record in lines.get(name, ())) for name in names if name in legend}
        figure.legend([legend[name] for name in labels], list(labels.values()), loc="outside right upper", fontsize=7, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panels(records: Iterable[Record]) -> dict[Panel, dict[str, list[Record]]]:
    """Return the records with a curve, and the failed ones of the same attack, task and learner, by panel and defense."""
    records = list(records)
    drawn = {_kind(record) for record in records if _curve(record)}
    panels: dict[Panel, dict[str, list[Record]]] = {}
    for record in records:
        if not _curve(record) and (record.status != "failed" or _kind(record) not in drawn):
            continue
        if set(words_of(record.command)) - {*PLAIN} or set(cast("Mapping[str, object]", record.spec["defense"])) - {*RULE}:
            continue
        defense, owners = record.spec["defense"], words_of(record.command).get("owners", "iid")
        rounds = record.spec["threat"]["rounds"]  # type: ignore[index]
        when = f"rounds {rounds[0] + 1} to {rounds[1]}" if rounds else "every round"
        panels.setdefault((owners, when), {}).setdefault(str(defense["name"]), []).append(record)  # type: ignore[index]
    return panels


def _curve(record: Record) -> list[float]:
    """Return the ASR after every round; empty for a failed record, a record without rounds, and one that measures only some rounds."""
    curve = record.curves.get("defended")
    return curve.get("asr", []) if record.status == "done" and isinstance(curve, Mapping) and "round" not in curve else []


def _kind(record: Record) -> str:
    """Return the attack, the name of the task and the learner, as text."""
    task = record.spec.get("task")
    return json.dumps([record.spec.get("attack"), task.get("name") if isinstance(task, Mapping) else task, record.spec.get("learner")], sort_keys=True)


def words_of(command: str) -> dict[str, str]:
    """Return the values in a command line by their keys."""
    return dict(word.split("=", 1) for word in words_in(command) if "=" in word)


def band(curves: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return the smallest and the largest value of several curves at each point."""
    places = list(zip(*curves, strict=True))
    return [min(values) for values in places], [max(values) for values in places]


def _fill(axis: Axes, panel: Panel, lines: Mapping[str, Sequence[Record]], names: Sequence[str]) -> dict[str, Line2D]:
    """Draw a panel and return its lines by name; a name has the same style in every panel."""
    styles, shown = ("-", "--", ":", "-."), {}
    for name, records in sorted(lines.items()):
        number = names.index(name)
        curves = [curve for record in records if (curve := _curve(record))]
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        rounds = range(1, len(mean) + 1)
        (drawn,) = axis.plot(rounds, mean, styles[number % 4], color=f"C{number % 10}", label=name, linewidth=1.4)
        shown[name] = drawn
        axis.fill_between(rounds, *band(curves), color=drawn.get_color(), alpha=0.1, linewidth=0)
    axis.set_title(f"{panel[0]}, attacked in {panel[1]}", fontsize=8)
    axis.set_xlabel("round")
    axis.set_xticks([1, 5, 10, 15, 20])
    axis.set_ylim(-0.03, 1.03)
    axis.spines[["top", "right"]].set_visible(False)
    return shown
