"""Cells as flat tables: CSV, Markdown, and the rows of the Parquet file. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from poisonbench.report.cells import Cell
from poisonbench.report.figures import markdown, text
from poisonbench.report.measures import FIGURES, PROPORTIONS
from poisonbench.stats import Spread

NAMES = ("kind", "task", "family", "threat", "attack", "rate", "defense", "learner", "setting")


def rows(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """Return one flat mapping a cell: every figure's mean, smallest and largest seed, and the 95 % interval of a proportion."""
    flat = []
    for cell in cells:
        row: dict[str, object] = {name: getattr(cell, name) for name in NAMES}
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
        flat.append(row | {"command": cell.command, "records": " ".join(str(seed["record"]) for seed in cell.seeds)})
    return flat


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
    return markdown([word.replace("|", "\\|").replace("<", "&lt;") for word in line] for line in lines)


def _percent(cell: Cell, name: str) -> str:
    found = cell.figures.get(name)
    return "-" if found is None else text(Spread(found.mean, found.smallest, found.largest), 1, 100.0)
