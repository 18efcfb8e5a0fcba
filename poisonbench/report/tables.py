"""Records to Markdown tables: one line a cell, its seeds folded into a mean and an interval."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from poisonbench.record import Record, read
from poisonbench.stats import over_seeds

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
)
NAMED = ("task", "attack", "defense", "seed", "task.root", "threat.budget.rate", "+experiment")
BLOCK = re.compile(r"(<!-- records: (\S*) -->\n).*?(<!-- end -->)", re.DOTALL)


def published(folder: Path) -> list[Record]:
    """Read every record of a folder, in the order of their commands.

    Raises:
        DataError: a file that is no record.
    """
    return sorted((read(path) for path in folder.glob("*.json")), key=lambda record: record.command)


def table(records: Iterable[Record]) -> str:
    """Return one Markdown table; cells of fewer than three seeds say so by their number of seeds."""
    cells: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(_cell(record), []).append(record)
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(_line(cell, cells[cell]) for cell in sorted(cells, key=_order))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str, records: Sequence[Record]) -> str:
    """Return `text` with every `<!-- records: TASK --> ... <!-- end -->` block holding the table of that task's records."""

    def block(found: re.Match[str]) -> str:
        chosen = [record for record in records if record.status == "done" and _name(record, "task") == found[2]]
        return f"{found[1]}{table(chosen)}{found[3]}"

    return BLOCK.sub(block, text)


def _cell(record: Record) -> tuple[str, ...]:
    words = shlex.split(record.command)[3:]
    setting = " ".join(word for word in words if word.partition("=")[0] not in NAMED)
    threat = record.spec["threat"]
    assert isinstance(threat, Mapping)
    rate = f"{100 * threat['budget']['rate']:g} %" if _name(record, "attack") != "none" else ""
    return _name(record, "task"), _name(record, "attack"), rate, _name(record, "defense"), setting


def _order(cell: tuple[str, ...]) -> tuple[str, str, float, str, str]:
    task, attack, rate, defense, setting = cell
    return task, attack, float(rate.removesuffix(" %") or 0), defense, setting


def _line(cell: tuple[str, ...], records: Sequence[Record]) -> tuple[str, ...]:
    task, attack, rate, defense, setting = cell
    pairs = [f"{_over(records, part, 'c_acc')} / {_over(records, part, 'asr') or '-'}" for part in ("baseline", "undefended", "metrics")]
    filters = [_over(records, "metrics", name) for name in ("tpr", "fpr")] + [_over(records, "metrics", "auroc_in_class", scale=1.0, digits=3)]
    return task, attack, rate, defense, f"`{setting}`" if setting else "", str(len(records)), *pairs, *filters


def _over(records: Sequence[Record], part: str, name: str, *, scale: float = 100.0, digits: int = 1) -> str:
    values = [float(value) for record in records if isinstance(value := getattr(record, part).get(name), int | float)]
    if not values:
        return ""
    mean, half = over_seeds([scale * value for value in values])
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _name(record: Record, part: str) -> str:
    named = record.spec[part]
    return str(named["name"]) if isinstance(named, Mapping) else str(named)
