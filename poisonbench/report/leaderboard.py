"""Records to a leaderboard: one page that needs nothing but itself, and the same cells as Markdown, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from poisonbench.core.files import write_atomically, write_text
from poisonbench.record import Record
from poisonbench.report.tables import cells_of
from poisonbench.stats import over_seeds, ranks

HERE = Path(__file__).parent
FIGURES: dict[str, Callable[[Record], object]] = {
    "c_acc": lambda record: _screened(record, "c_acc"),
    "asr": lambda record: _screened(record, "asr"),
    "r_acc": lambda record: record.metrics.get("r_acc"),
    "undefended_c_acc": lambda record: record.undefended.get("c_acc"),
    "undefended_asr": lambda record: record.undefended.get("asr"),
    "undefended_r_acc": lambda record: record.undefended.get("r_acc"),
    "clean_c_acc": lambda record: record.baseline.get("c_acc"),
    "clean_asr": lambda record: record.baseline.get("asr"),
    "tpr": lambda record: record.metrics.get("tpr"),
    "fpr": lambda record: record.metrics.get("fpr"),
    "auroc": lambda record: record.metrics.get("auroc_in_class"),
    "certified": lambda record: certified[0] if (certified := _certified(record)) else None,
    "median_radius": lambda record: record.metrics.get("median_radius") if _certified(record) else None,
    "seconds": lambda record: math.fsum(map(float, seconds.values())) if isinstance(seconds := record.cost.get("seconds"), Mapping) else None,
}


def _screened(record: Record, name: str) -> object:
    """Return a figure of the defended model, behind its screen if it has one."""
    screen = record.metrics.get("screen")
    return (screen if isinstance(screen, Mapping) and name in screen else record.metrics).get(name)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the leaderboard: a setting with all its seeds.

    Args:
        task: its name.
        family: of the attack.
        threat: what the attacker may do.
        attack: its name.
        rate: poisoned rows / training rows; None without an attack.
        defense: its name.
        learner: class of the recipe.
        setting: further words of the command.
        command: of every seed, `seed=` left out.
        figures: mean and half-width of the 95 % interval (None below two seeds) of each figure that applies.
        rank: by ASR among the defenses that met the same attack in the same setting, 1 for the lowest: the 95 % interval that holds for
            all of them at once; None where nothing is compared.
        curves: means over seeds; "certified" over radii, "rounds" over federated rounds.
        seeds: one a record.
    """

    task: str
    family: str
    threat: str
    attack: str
    rate: float | None
    defense: str
    learner: str
    setting: str
    command: str
    figures: Mapping[str, tuple[float, float | None]]
    rank: tuple[int, int] | None
    curves: Mapping[str, list[float]]
    seeds: Sequence[Mapping[str, object]]


def folded(records: Iterable[Record]) -> list[Cell]:
    """Return the cells of all records, seeds folded, in a fixed order."""
    return _ranked([_cell(named, found) for named, found in cells_of(records)])


def _ranked(cells: Sequence[Cell]) -> list[Cell]:
    met: dict[tuple[object, ...], dict[int, dict[int, float]]] = {}
    for place, cell in enumerate(cells):
        by_seed = {int(str(seed["seed"])): float(str(seed["asr"])) for seed in cell.seeds if "asr" in seed}
        if by_seed:
            met.setdefault((cell.task, cell.attack, cell.rate, cell.learner, cell.setting), {})[place] = by_seed
    found: dict[str, tuple[int, int]] = {}
    for figures in met.values():
        found |= ranks({str(place): by_seed for place, by_seed in figures.items()}) if len(figures) > 1 else {}
    return [replace(cell, rank=found.get(str(place))) for place, cell in enumerate(cells)]


def _cell(named: tuple[str, ...], records: Sequence[Record]) -> Cell:
    task, attack, rate, defense, setting = (plain(text) for text in named)
    done = [record for record in records if record.status == "done"]
    figures = {name: [float(value) for record in done if isinstance(value := figure(record), int | float)] for name, figure in FIGURES.items()}
    learner = records[0].spec.get("learner")
    return Cell(
        task=task,
        family=_family(records[0]),
        threat=_threat(records[0]),
        attack=attack,
        rate=float(rate.removesuffix(" %")) / 100 if rate else None,
        defense=defense,
        learner=plain(str(learner.get("class", "")).rpartition(".")[2]) if isinstance(learner, Mapping) else "",
        setting=setting,
        command=plain(" ".join(word for word in records[0].command.split(" ") if not word.startswith("seed="))),
        figures={name: over_seeds(values) for name, values in figures.items() if values},
        rank=None,
        curves=_curves(done),
        seeds=[_seed(record) for record in sorted(records, key=lambda record: (str(record.spec.get("seed")).zfill(9), record.key))],
    )


def _seed(record: Record) -> dict[str, object]:
    told = {"seed": record.spec.get("seed"), "record": record.key, "digest": record.result_digest[:16], "commit": str(record.provenance.get("commit", ""))[:10]}
    figures = {name: round(float(value), 4) for name in ("c_acc", "asr") if isinstance(value := FIGURES[name](record), int | float)}
    return told | figures | ({} if record.status == "done" else {"status": record.status, "reason": plain(record.reason)})


def _curves(records: Sequence[Record]) -> dict[str, list[float]]:
    told = {"certified": [_certified(record) for record in records], "rounds": [_rounds(record) for record in records]}
    curves = {name: [[float(value) for value in curve] for curve in found if curve] for name, found in told.items()}
    return {name: [round(sum(values) / len(values), 4) for values in zip(*found, strict=False)] for name, found in curves.items() if found}


def _certified(record: Record) -> list[float]:
    """Return certified accuracy over radii in training rows; empty where there is none, or where radii count something else."""
    curve = record.metrics.get("certified")
    return curve if isinstance(curve, list) and "radius_unit" not in record.metrics else []


def _rounds(record: Record) -> list[float]:
    curve = record.curves.get("defended")
    asr = curve.get("asr") if isinstance(curve, Mapping) and "round" not in curve else None
    return asr if isinstance(asr, list) else []


def _threat(record: Record) -> str:
    attack, threat = record.spec.get("attack"), record.spec.get("threat")
    budget = threat.get("budget") if isinstance(threat, Mapping) else None
    if not isinstance(attack, Mapping) or not isinstance(budget, Mapping) or _family(record) == "none":
        return "none"
    acts = {"train": "run the training", "update": "send updates"}
    rows = "add rows" if budget.get("inject") else "relabel and edit rows" if budget.get("relabel") else "edit rows, labels kept"
    return next((told for slot, told in acts.items() if slot in attack), rows)


def _family(record: Record) -> str:
    attack = record.spec.get("attack")
    slots = [attack.get(slot) for slot in ("update", "data", "train")] if isinstance(attack, Mapping) else []
    paths = [str(slot["class"]).split(".") for slot in slots if isinstance(slot, Mapping) and str(slot.get("class", "")).startswith("attacks.")]
    return plain(paths[0][1]) if paths else "none"


def plain(text: str) -> str:
    """Return text without control characters, which a terminal or a spreadsheet might obey."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in ("Cc", "Cf") else letter for letter in text)


def page(cells: Sequence[Cell]) -> str:
    """Return the whole page. All text comes in as data, and is put into the page as text."""
    from base64 import b64encode
    from hashlib import sha256

    from jinja2 import Environment, FileSystemLoader, select_autoescape

    script = (HERE / "leaderboard.js").read_text(encoding="utf-8")
    allowed = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=select_autoescape(default=True), keep_trailing_newline=True)
    data = json.dumps([_packed(cell) for cell in cells], separators=(",", ":"), ensure_ascii=True)
    for mark in "<>&":
        data = data.replace(mark, f"\\u{ord(mark):04x}")  # no text of a record can end the block it lies in
    return environment.get_template("leaderboard.html.j2").render(data=data, script=script, allowed=allowed, records=sum(len(cell.seeds) for cell in cells))


def _packed(cell: Cell) -> Mapping[str, object]:
    named = {
        "t": cell.task,
        "f": cell.family,
        "h": cell.threat,
        "a": cell.attack,
        "r": cell.rate,
        "d": cell.defense,
        "l": cell.learner,
        "s": cell.setting,
        "c": cell.command,
    }
    figures = {name: [round(mean, 4), None if half is None else round(half, 4)] for name, (mean, half) in cell.figures.items()}
    return named | {"m": figures, "n": [list(seed.items()) for seed in cell.seeds], "o": cell.rank} | ({"k": dict(cell.curves)} if cell.curves else {})


def rows(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """Return one flat mapping a cell, every figure with its interval."""
    told = []
    for cell in cells:
        row: dict[str, object] = {name: getattr(cell, name) for name in ("task", "family", "threat", "attack", "rate", "defense", "learner", "setting")}
        row |= {"rank_low": cell.rank[0] if cell.rank else None, "rank_high": cell.rank[1] if cell.rank else None}
        row |= {"seeds": len(cell.seeds), "done": sum("status" not in seed for seed in cell.seeds)}
        for name in FIGURES:
            mean, half = cell.figures.get(name, (None, None))
            row |= {name: mean, f"{name}_interval": half}
        told.append(row | {"command": cell.command, "records": " ".join(str(seed["record"]) for seed in cell.seeds)})
    return told


def as_csv(cells: Sequence[Cell]) -> str:
    """Return the cells as CSV; text that a spreadsheet would take for a formula is quoted with an apostrophe."""
    stream = io.StringIO()
    listed = rows(cells)
    writer = csv.DictWriter(stream, list(listed[0]) if listed else ["task"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: harmless(value) for name, value in row.items()} for row in listed)
    return stream.getvalue()


def harmless(value: object) -> object:
    """Return a value for a CSV file; text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def as_markdown(cells: Sequence[Cell]) -> str:
    """Return the cells as a Markdown table of their main figures, in per cent."""
    columns = ("task", "attack", "rate", "defense", "setting", "seeds", "clean C-Acc / ASR", "undefended C-Acc / ASR", "defended C-Acc / ASR")
    lines = [columns, tuple("---" for _ in columns)]
    for cell in cells:
        pairs = [
            f"{_percent(cell, first)} / {_percent(cell, second)}"
            for first, second in (("clean_c_acc", "clean_asr"), ("undefended_c_acc", "undefended_asr"), ("c_acc", "asr"))
        ]
        rate = "" if cell.rate is None else f"{100 * cell.rate:g} %"
        lines.append((cell.task, cell.attack, rate, cell.defense, cell.setting, str(len(cell.seeds)), *pairs))
    return "".join("| " + " | ".join(text.replace("|", "\\|").replace("<", "&lt;") for text in line) + " |\n" for line in lines)


def _percent(cell: Cell, name: str) -> str:
    mean, half = cell.figures.get(name, (None, None))
    return "-" if mean is None else f"{100 * mean:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def write(cells: Sequence[Cell], folder: Path) -> None:
    """Write index.html, leaderboard.csv, leaderboard.md and leaderboard.parquet into `folder`."""
    import pyarrow
    import pyarrow.parquet

    write_text(folder / "index.html", page(cells))
    write_text(folder / "leaderboard.csv", as_csv(cells))
    write_text(folder / "leaderboard.md", as_markdown(cells))
    table = pyarrow.Table.from_pylist(rows(cells))
    write_atomically(folder / "leaderboard.parquet", lambda path: pyarrow.parquet.write_table(table, path))
