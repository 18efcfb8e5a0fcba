"""Cells to a leaderboard: one page that needs nothing but itself, and the same cells as Markdown, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from poisonbench.core.files import write_atomically, write_text
from poisonbench.report.cells import FIGURES, PROPORTIONS, Cell, Figure
from poisonbench.report.figures import text
from poisonbench.stats import Spread, smallest_gap

HERE = Path(__file__).parent
SEED = ("seed", "record", "digest", "commit", "c_acc", "asr", "status", "reason")  # what the page has of each seed, in this order
SEEDS = (3, 5, 10)  # for which the page says what ranks can separate


def page(cells: Sequence[Cell]) -> str:
    """Return the whole page. All text comes in as data, and is put into the page as text."""
    from base64 import b64encode
    from hashlib import sha256

    from jinja2 import Environment, FileSystemLoader, select_autoescape

    script = (HERE / "leaderboard.js").read_text(encoding="utf-8")
    allowed = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=select_autoescape(default=True), keep_trailing_newline=True)
    unseen = sorted({cell.unseen for cell in cells if cell.unseen})
    figures: dict[Figure, int] = {}  # those of clean and of undefended training recur in many cells
    whole = {"cells": [_packed(cell, unseen, figures) for cell in cells], "unseen": unseen, "figures": [_ends(figure) for figure in figures]}
    data = json.dumps(whole, separators=(",", ":"), ensure_ascii=True)
    for mark in "<>&":
        data = data.replace(mark, f"\\u{ord(mark):04x}")  # no text of a record can end the block it lies in
    return environment.get_template("leaderboard.html.j2").render(
        data=data, script=script, allowed=allowed, records=sum(len(cell.seeds) for cell in cells), seeds=SEEDS, gaps=gaps(cells), unseen=bool(unseen)
    )


def gaps(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Return, for each number of cells that are ranked together, the smallest gap in net ASR that ranks can separate at 3, 5 and 10 seeds."""
    numbers = sorted({cell.compared for cell in cells if cell.compared > 1})
    found = [(number, [smallest_gap(number, seeds) for seeds in SEEDS]) for number in numbers]
    return [(str(number), *("none" if gap is None else f"{100 * gap:.0f} points" for gap in several)) for number, several in found]


def _packed(cell: Cell, unseen: Sequence[tuple[str, ...]], figures: dict[Figure, int]) -> Mapping[str, object]:
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
    numbers = {name: figures.setdefault(figure, len(figures)) for name, figure in cell.figures.items()}
    more = {"k": dict(cell.curves), "u": cell.unit, "e": cell.relation, "w": cell.unranked, "g": cell.compared}
    more["x"] = unseen.index(cell.unseen) if cell.unseen else None
    told = {name: value for name, value in more.items() if value or (name == "x" and value == 0)}
    return (
        named
        | {"m": numbers, "n": [[seed.get(name) for name in SEED if "status" in seed or name not in SEED[-2:]] for seed in cell.seeds], "o": cell.rank}
        | told
    )


def _ends(figure: Figure) -> list[object]:
    """Return a mean, its range if seeds differ, its interval if it is a proportion."""
    spread = None if figure.smallest == figure.largest else [round(figure.smallest, 4), round(figure.largest, 4)]
    return [round(figure.mean, 4), spread, None if figure.low is None or figure.high is None else [round(figure.low, 3), round(figure.high, 3)]]


def rows(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """Return one flat mapping a cell: every figure's mean, smallest and largest seed, and the 95 % interval of a proportion."""
    told = []
    for cell in cells:
        row: dict[str, object] = {name: getattr(cell, name) for name in ("task", "family", "threat", "attack", "rate", "defense", "learner", "setting")}
        row |= {"rank_low": cell.rank[0] if cell.rank else None, "rank_high": cell.rank[1] if cell.rank else None}
        row |= {
            "ranked": cell.compared if cell.rank else None,
            "not_ranked": cell.unranked or None,
            "radius_unit": cell.unit or None,
            "relation": cell.relation or None,
        }
        row |= {"seeds": len(cell.seeds), "done": sum("status" not in seed for seed in cell.seeds)}
        for name in FIGURES:
            found = cell.figures.get(name)
            row |= {name if part == "mean" else f"{name}_{part}": getattr(found, part, None) for part in ("mean", "smallest", "largest")}
            row |= {f"{name}_{end}": getattr(found, end, None) for end in ("low", "high") if name in PROPORTIONS}
        row["unseen"] = len(cell.unseen)
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
    return "".join("| " + " | ".join(word.replace("|", "\\|").replace("<", "&lt;") for word in line) + " |\n" for line in lines)


def _percent(cell: Cell, name: str) -> str:
    found = cell.figures.get(name)
    return "-" if found is None else text(Spread(found.mean, found.smallest, found.largest), 1, 100.0)


def write(cells: Sequence[Cell], folder: Path) -> None:
    """Write index.html, leaderboard.csv, leaderboard.md and leaderboard.parquet into `folder`."""
    import pyarrow
    import pyarrow.parquet

    write_text(folder / "index.html", page(cells))
    write_text(folder / "leaderboard.csv", as_csv(cells))
    write_text(folder / "leaderboard.md", as_markdown(cells))
    table = pyarrow.Table.from_pylist(rows(cells))
    write_atomically(folder / "leaderboard.parquet", lambda path: pyarrow.parquet.write_table(table, path))
