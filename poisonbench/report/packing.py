"""What the page of the leaderboard gets as data: cells, and figures that are sent once. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from poisonbench.report.cells import Cell
from poisonbench.report.measures import Figure

SEED = ("seed", "record", "digest", "commit", "c_acc", "asr", "status", "reason")  # what the page has of each seed, in this order


def packed(cells: Sequence[Cell]) -> dict[str, object]:
    """Return all that the page shows."""
    unseen = sorted({cell.unseen for cell in cells if cell.unseen})
    figures: dict[Figure, int] = {}  # those of clean and of undefended training recur in many cells
    return {"cells": [_packed(cell, unseen, figures) for cell in cells], "unseen": unseen, "figures": [_ends(figure) for figure in figures]}


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
