"""Cells to the summaries on top of each tab: defenses by the worst attack that they met, and certificates by their radius. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from poisonbench.report import kinds
from poisonbench.report.cells import LOSS, Cell, Met
from poisonbench.report.measures import Figure

Group = Literal["all", "some", "unranked", "reference"]  # met all attacks, met fewer, loses too much C-Acc, listed for comparison
USUAL_RATE = 0.05  # of two settings that equally many defenses met, the one nearer to this poison rate is shown


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One defense in the summary.

    Args:
        defense: its name.
        cells: what it met, by column; only cells with a measured damage.
        cost: C-Acc lost without an attack; the largest if it was measured with several learners. None without such a record.
        missing: columns that it did not meet.
        barred: those of them that it cannot meet.
        reference: why it is listed for comparison only; empty for a defense.
    """

    defense: str
    cells: Mapping[Met, Cell]
    cost: Figure | None
    missing: Sequence[Met]
    barred: Sequence[Met]
    reference: str

    @property
    def worst(self) -> Cell:
        """The cell in which the attack achieved most."""
        return max(self.cells.values(), key=_height)

    @property
    def unranked(self) -> list[Cell]:
        """The cells in which it is not ranked, because it loses too much C-Acc or no seed was done."""
        return [cell for cell in self.cells.values() if cell.unranked]

    @property
    def group(self) -> Group:
        """How it compares with the others."""
        costly = self.cost is not None and round(self.cost.mean, 9) > LOSS
        return "reference" if self.reference else "unranked" if self.unranked or costly else "some" if self.missing else "all"


@dataclass(frozen=True, kw_only=True)
class Board:
    """The summary of one tab and task.

    Args:
        kind: name of the tab.
        task: its name.
        columns: attacks, each in one setting.
        standings: defenses in their order: by group, then by coverage, then by worst case.
        proofs: cells with a certificate, by what radii count; the largest median radius first.
    """

    kind: str
    task: str
    columns: Sequence[Met]
    standings: Sequence[Standing]
    proofs: Mapping[str, Sequence[Cell]]


def boards(cells: Sequence[Cell]) -> list[Board]:
    """Return a board for each kind and task that has cells; tasks with many cells first."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if not cell.skipped:
            found.setdefault((cell.kind, cell.task), []).append(cell)
    order = [kind.name for kind in kinds.KINDS]
    barred = _barred(cells)
    listed = sorted(found.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]), item[0][1]))
    return [_board(kind, task, mine, barred) for (kind, task), mine in listed]


def _board(kind: str, task: str, cells: Sequence[Cell], barred: Mapping[tuple[str, str], set[str]]) -> Board:
    columns = _columns(cells)
    met: dict[str, dict[Met, Cell]] = {}
    for cell in cells:
        if cell.met in columns and cell.harm:
            met.setdefault(cell.defense, {})[cell.met] = cell
    standings = [_standing(defense, mine, columns, barred.get((task, defense), set())) for defense, mine in met.items()]
    standings.sort(key=lambda one: (get_args(Group).index(one.group), len(one.missing), _height(one.worst), one.cost.mean if one.cost else 1.0, one.defense))
    return Board(kind=kind, task=task, columns=columns, standings=standings, proofs=_proofs(cells))


def _standing(defense: str, met: Mapping[Met, Cell], columns: Sequence[Met], barred: set[str]) -> Standing:
    missing = [column for column in columns if column not in met]
    return Standing(
        defense=defense,
        cells={column: met[column] for column in columns if column in met},
        cost=max((cell.cost for cell in met.values() if cell.cost), default=None, key=lambda cost: cost.mean),
        missing=missing,
        barred=[column for column in missing if column.attack in barred],
        reference=next(iter(met.values())).reference,
    )


def _columns(cells: Iterable[Cell]) -> list[Met]:
    """Return attacks in settings: each attack in the one that most defenses met, and further ones that at least half of all defenses met."""
    met: dict[Met, list[Cell]] = {}
    for cell in cells:
        if cell.harm and not cell.reference:
            met.setdefault(cell.met, []).append(cell)
    most = max((len(several) for several in met.values()), default=0)
    chosen: dict[str, Met] = {}
    for column in sorted(
        met, key=lambda column: (-len(met[column]), abs((column.rate or 0) - USUAL_RATE), len(column.setting), column.setting, column.learner)
    ):
        chosen.setdefault(column.attack, column)
    kept = [column for column in met if column in chosen.values() or len(met[column]) >= max(2, most / 2)]
    return sorted(kept, key=lambda column: (column.attack, column.rate or 0, column.setting, column.learner))


def _barred(cells: Iterable[Cell]) -> dict[tuple[str, str], set[str]]:
    """Return the attacks that each defense cannot meet on each task."""
    found: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        if cell.skipped:
            found.setdefault((cell.task, cell.defense), set()).add(cell.attack)
    return found


def _proofs(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Return the cells with a certificate by their unit: those without an attack, and for a defense that has none, those under attacks."""
    proved = [cell for cell in cells if cell.unit and "median_radius" in cell.figures]
    calm = {cell.defense for cell in proved if cell.attack == "none"}
    found: dict[str, list[Cell]] = {}
    for cell in proved:
        if cell.attack == "none" or cell.defense not in calm:
            found.setdefault(cell.unit, []).append(cell)
    ordered = {unit: sorted(several, key=_strength) for unit, several in found.items()}
    return dict(sorted(ordered.items(), key=lambda item: (-len(item[1]), item[0])))


def _strength(cell: Cell) -> tuple[float, float]:
    """Return what certificates are sorted by: the larger median radius first, then the larger certified accuracy."""
    certified = cell.figures.get("certified")
    return -cell.figures["median_radius"].mean, -certified.mean if certified else 0.0


def _height(cell: Cell) -> float:
    """Return the mean damage of a cell."""
    return cell.harm.mean if cell.harm else 0.0
