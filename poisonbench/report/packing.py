"""What the page of the leaderboard gets as data: cells, summaries, pairs that cannot be run, links. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from poisonbench.report import kinds
from poisonbench.report.boards import Board, Standing, boards
from poisonbench.report.cells import Cell
from poisonbench.report.links import links
from poisonbench.report.measures import Figure

SEED = ("seed", "record", "digest", "commit", "c_acc", "asr", "status", "reason")  # what the page has of each seed, in this order
FIELDS = {  # short names: there may be 17,000 cells
    "y": "kind",
    "t": "task",
    "f": "family",
    "h": "threat",
    "a": "attack",
    "r": "rate",
    "d": "defense",
    "l": "learner",
    "s": "setting",
    "c": "command",
    "o": "rank",
}
FIELDS_IF_ANY = {"k": "curves", "u": "unit", "e": "relation", "w": "unranked", "g": "compared", "p": "damage"}


class Numbers:
    """Figures, each sent once: those of clean and of undefended training recur in many cells."""

    def __init__(self) -> None:
        self._places: dict[Figure, int] = {}

    def place(self, figure: Figure | None) -> int | None:
        """Return the place of a figure in the list; a new one is added."""
        return None if figure is None else self._places.setdefault(figure, len(self._places))

    def packed(self) -> list[list[object]]:
        """Return of each figure its mean, its range if seeds differ, its interval if it is a proportion."""
        return [_ends(figure) for figure in self._places]


def packed(cells: Sequence[Cell], site: str | None = None) -> dict[str, object]:
    """Return all that the page shows.

    Args:
        cells: of the leaderboard.
        site: the documentation site as seen from the page, such as "../"; None for names without links.
    """
    run, numbers, summaries = [cell for cell in cells if not cell.skipped], Numbers(), boards(cells)
    unseen = sorted({cell.unseen for cell in run if cell.unseen})
    places = {id(cell): place for place, cell in enumerate(run)}
    used = {board.kind for board in summaries}
    return {
        "kinds": [{"name": kind.name, "title": kind.title, "about": kind.about} for kind in kinds.KINDS if kind.name in used],
        "cells": [_cell(cell, unseen, numbers) for cell in run],
        "boards": [_board(board, places, numbers) for board in summaries],
        "skipped": skipped(cells),
        "unseen": unseen,
        "links": {part: {} if site is None else links(site, part, {getattr(cell, part) for cell in cells}) for part in ("attack", "defense")},
        "figures": numbers.packed(),
    }


def skipped(cells: Iterable[Cell]) -> list[tuple[str, list[tuple[str, str, list[str]]]]]:
    """Return the pairs that cannot be run: by reason, the task, the defense and its attacks; a reason with many pairs first."""
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for cell in cells:
        for reason in sorted({str(seed["reason"]) for seed in cell.seeds}) if cell.skipped else ():
            attacks = found.setdefault(reason, {}).setdefault((cell.task, cell.defense), [])
            if cell.attack not in attacks:
                attacks.append(cell.attack)
    listed = sorted(found.items(), key=lambda item: (-sum(map(len, item[1].values())), item[0]))
    return [(reason, [(task, defense, attacks) for (task, defense), attacks in sorted(pairs.items())]) for reason, pairs in listed]


def _cell(cell: Cell, unseen: Sequence[tuple[str, ...]], numbers: Numbers) -> Mapping[str, object]:
    named = {short: getattr(cell, name) for short, name in FIELDS.items()}
    figures = {name: numbers.place(figure) for name, figure in cell.figures.items()}
    seeds = [[seed.get(name) for name in SEED if "status" in seed or name not in SEED[-2:]] for seed in cell.seeds]
    more = {short: value for short, name in FIELDS_IF_ANY.items() if (value := getattr(cell, name))}
    more |= {"v": numbers.place(cell.cost)} if cell.cost else {}
    more |= {"x": unseen.index(cell.unseen)} if cell.unseen else {}
    return named | {"m": figures, "n": seeds} | more


def _board(board: Board, places: Mapping[int, int], numbers: Numbers) -> Mapping[str, object]:
    return {
        "kind": board.kind,
        "task": board.task,
        "columns": [{"a": column.attack, "r": column.rate, "s": column.setting, "l": column.learner} for column in board.columns],
        "standings": [_standing(standing, board, places, numbers) for standing in board.standings],
        "proofs": [[unit, [places[id(cell)] for cell in several]] for unit, several in board.proofs.items()],
    }


def _standing(standing: Standing, board: Board, places: Mapping[int, int], numbers: Numbers) -> Mapping[str, object]:
    met = [standing.cells.get(column) for column in board.columns]
    return {
        "d": standing.defense,
        "group": standing.group,
        "worst": places[id(standing.worst)],
        "cost": numbers.place(standing.cost),
        "cells": [None if cell is None else places[id(cell)] for cell in met],
        "barred": [place for place, column in enumerate(board.columns) if column in standing.barred],
        "reference": standing.reference,
    }


def _ends(figure: Figure) -> list[object]:
    """Return a mean, its range if seeds differ, its interval if it is a proportion."""
    spread = None if figure.smallest == figure.largest else [round(figure.smallest, 4), round(figure.largest, 4)]
    return [round(figure.mean, 4), spread, None if figure.low is None or figure.high is None else [round(figure.low, 3), round(figure.high, 3)]]
