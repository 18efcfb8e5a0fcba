"""Records to Markdown tables: one line a cell, its seeds folded into a mean and an interval."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from poisonbench.record import Part, Record, read, words_in
from poisonbench.report.experiments import belonging
from poisonbench.stats import over_seeds, worst

COLUMNS = (
    "task",
    "attack",
    "rate",
    "defense",
    "setting",
    "seeds",
    "clean C-Acc / ASR",
    "undefended C-Acc / ASR",
    "defended C-Acc / ASR",
    "TPR",
    "FPR",
    "AUROC within class",
    "more",
)
NAMED = ("task", "attack", "defense", "seed", "task.root", "threat.budget.rate", "threat.budget.count", "+experiment")
OTHER = re.compile(r"(<!-- (ledger|benchmarks) -->\n).*?(<!-- end -->)", re.DOTALL)
RADII = (1, 5, 10, 20, 50, 100, 200, 400, 800)  # of certificates, in tables
BLOCK = re.compile(r"(<!-- (?:records|worst): (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def published(folder: Path) -> list[Record]:
    """Read every record of a folder, in the order of their commands.

    Raises:
        DataError: a file that is no record.
    """
    return sorted((read(path) for path in folder.glob("*.json")), key=lambda record: record.command)


def table(records: Iterable[Record]) -> str:
    """Return one Markdown table without its empty columns; cells of fewer than three seeds say so by their number of seeds."""
    rows = [_line(cell, found) for cell, found in cells_of(records)]
    used = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    return "".join(f"| {' | '.join(line[place] for place in used)} |\n" for line in lines)


def cells_of(records: Iterable[Record]) -> list[tuple[tuple[str, ...], list[Record]]]:
    """Return the records of each (task, attack, rate, defense, setting), in a fixed order: those that differ by their seed alone."""
    cells: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(_cell(record), []).append(record)
    return [(cell, cells[cell]) for cell in sorted(cells, key=_order)]


def matrix(records: Iterable[Record]) -> str:
    """Return a Markdown table of defended C-Acc, a row a defense, a column an attack, and the worst of them at the end."""
    cells: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        cells.setdefault(_name(record, "defense"), {}).setdefault(_name(record, "attack"), []).append(record)
    attacks = sorted({attack for row in cells.values() for attack in row})
    lines = [("defense", *attacks, "worst case"), tuple("---" for _ in range(len(attacks) + 2))]
    for defense, row in sorted(cells.items()):
        figures = {attack: _over(row[attack], "metrics", "c_acc") for attack in attacks if attack in row}
        attack, figure = worst({name: float(told.split()[0]) for name, told in figures.items()}, largest=False)
        lines.append((defense, *(figures.get(name, "") for name in attacks), f"{figure:.1f} ({attack})"))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str, records: Sequence[Record], ledger: str = "", benchmarks: str = "") -> str:
    """Return `text` with every block filled from the records that it names.

    `<!-- records: TASK [KEY=A,B ...] --> ... <!-- end -->` holds their table, `<!-- worst: ... -->` the matrix of their C-Acc,
    `<!-- ledger -->` and `<!-- benchmarks -->` the tables given. Keys are attack, defense (names), learner (class of the recipe, such as
    Federated) and experiment (one name).
    """

    def block(found: re.Match[str]) -> str:
        task, *asked = found[2].split()
        wanted = {"task": [task], **{name: values.split(",") for name, _, values in (word.partition("=") for word in asked)}}
        mine = [record for record in records if record.status == "done"]
        for experiment in wanted.pop("experiment", []):
            mine = belonging(mine, experiment)
        chosen = [record for record in mine if all(_part(record, name) in wanted[name] for name in wanted)]
        return f"{found[1]}{(matrix if found[1].startswith('<!-- worst') else table)(chosen)}{found[3]}"

    others = {"ledger": ledger, "benchmarks": benchmarks}
    text = OTHER.sub(lambda found: f"{found[1]}{others[found[2]]}{found[3]}", text)
    return BLOCK.sub(block, text)


def _cell(record: Record) -> tuple[str, ...]:
    words = words_in(record.command)[3:]
    setting = " ".join(sorted(word for word in words if word.partition("=")[0] not in NAMED))  # one cell, in whatever order it was typed
    budget = cast("Mapping[str, float]", cast("Mapping[str, object]", record.spec["threat"])["budget"])
    rows = cast("Mapping[str, Mapping[str, int]]", record.spec["task"])["rows"]
    share = float(budget["rate"]) if budget.get("count") is None else budget["count"] / max(1, rows["train"])
    rate = f"{100 * share:.3g} %" if _name(record, "attack") != "none" else ""
    return _name(record, "task"), _name(record, "attack"), rate, _name(record, "defense"), setting


def _order(cell: tuple[str, ...]) -> tuple[str, str, float, str, str]:
    task, attack, rate, defense, setting = cell
    return task, attack, float(rate.removesuffix(" %") or 0), defense, setting


def _line(cell: tuple[str, ...], records: Sequence[Record]) -> tuple[str, ...]:
    task, attack, rate, defense, setting = cell
    pairs = [f"{_over(records, part, 'c_acc')} / {_over(records, part, 'asr') or '-'}" for part in ("baseline", "undefended", "metrics")]
    filters = [_over(records, "metrics", name) for name in ("tpr", "fpr")] + [_over(records, "metrics", "auroc_in_class", scale=1.0, digits=3)]
    return task, attack, rate, defense, f"`{setting}`" if setting else "", str(len(records)), *pairs, *filters, _more(records)


def _more(records: Sequence[Record]) -> str:
    """Return what only some defenses and attacks report, in words."""
    told = [f"C-Acc lost {lost}" for lost in [_over(records, "undefended", "c_acc_lost")] if lost]
    if len(records) == 1 and isinstance(interval := records[0].undefended.get("asr_interval"), list | tuple):
        low, high = (100 * float(end) for end in interval)
        told.append(f"undefended ASR {low:.1f} to {high:.1f} over {records[0].counts.get('trials', 0)} targets")
    screened = [_inside(records, "screen", name, scale) for name, scale in (("c_acc", 100.0), ("asr", 100.0), ("auroc", 1.0))]
    told += [f"screened {' / '.join(filter(None, screened[:2]))}" + (f", AUROC {screened[2]}" if screened[2] else "")] if screened[0] else []
    told += [f"{name.replace('_', ' ')} {figure}" for name in ("anomaly_index", "pruned") if (figure := _inside(records, "repair", name, 1.0))]
    unit = next((f" {unit}" for record in records if (unit := record.metrics.get("radius_unit"))), "")
    told += [f"median radius {radius}{unit}" for radius in [_over(records, "metrics", "median_radius", scale=1.0)] if radius]
    told += [f"members {right}" for right in [_over(records, "metrics", "member_c_acc")] if right]
    told += [f"certified {', '.join(proved)}" for proved in [list(_certified(records))] if proved]
    together = sorted({int(name) for record in records for name in cast("Mapping[str, float]", record.metrics.get("collective") or {})})
    shares = [f"{_inside(records, 'collective', str(number), 100.0)} at {number}" for number in together]
    told += [f"under one attack {', '.join(shares)}"] if shares else []
    told += [f"epsilon {spent}" for spent in [_over(records, "facts", "epsilon", scale=1.0, digits=2)] if spent]
    told += [
        f"{whose}canaries show at least {least}"
        for whose, part in (("undefended ", "undefended"), ("", "metrics"))
        if (least := _over(records, part, "epsilon_lower", scale=1.0, digits=2))
    ]
    return "; ".join(told)


def _certified(records: Sequence[Record]) -> Iterator[str]:
    """Yield the certified accuracy at radii that all tables have in common, as far as it is worth the name."""
    curves = [cast("Sequence[float]", curve) for record in records if isinstance(curve := record.metrics.get("certified"), list | tuple)]
    for radius in RADII if curves else ():
        shares = [100 * curve[radius] if radius < len(curve) else 0.0 for curve in curves]
        if max(shares) >= 1:
            yield f"{_told(shares, 1)} at {radius}"


def _inside(records: Sequence[Record], part: str, name: str, scale: float) -> str:
    """Return a figure of one part of the metrics, over seeds."""
    parts = [inner for record in records if isinstance(inner := record.metrics.get(part), Mapping)]
    return _told([scale * float(inner[name]) for inner in parts if name in inner], 2 if scale == 1.0 else 1)


def _over(records: Sequence[Record], part: str, name: str, *, scale: float = 100.0, digits: int = 1) -> str:
    figures = [{**getattr(record, part), **(record.goal(cast("Part", part)) if part in get_args(Part) else {})} for record in records]
    values = [float(value) for told in figures if isinstance(value := told.get(name), int | float)]
    return _told([scale * value for value in values], digits)


def _told(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    mean, half = over_seeds(values)
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _part(record: Record, name: str) -> str:
    """Return what a block's key selects by."""
    learner = record.spec["learner"]
    return str(learner["class"]).rpartition(".")[2] if name == "learner" and isinstance(learner, Mapping) else _name(record, name)


def _name(record: Record, part: str) -> str:
    named = record.spec[part]
    return str(named["name"]) if isinstance(named, Mapping) else str(named)
