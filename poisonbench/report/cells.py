"""Records to cells, a setting with all its seeds: figures with ranges and intervals, and ranks among defenses that met the same attack."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from poisonbench.report.figures import Failures, defended, goal, name_of, number, plain, radii, relation
from poisonbench.report.kinds import kind_of
from poisonbench.report.measures import FIGURES, Figure, certified, failed, figures_of, lost, values_of
from poisonbench.report.tables import AT_MOST, cells_of
from poisonbench.stats import ranks
from poisonbench.storage.record import Part, Record

LOSS = 0.05  # of C-Acc, beyond which a defense is not ranked


class Met(NamedTuple):
    """An attack in one setting, on one task and learner."""

    task: str
    attack: str
    rate: float | None
    learner: str
    setting: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the leaderboard: a setting with all its seeds.

    Args:
        kind: name of the tab that it belongs to.
        task: its name.
        family: of the attack.
        threat: what the attacker may do.
        attack: its name.
        rate: poisoned rows / training rows; None without an attack.
        defense: its name.
        learner: class of the recipe.
        setting: further words of the command.
        command: of every seed, `seed=` left out.
        figures: those that apply. A failed seed counts as ASR 1 and C-Acc of chance.
        damage: name of the figure that says what the attack achieved: "net_asr" of an attack with a target, "c_acc_lost" of one that lowers
            accuracy; empty for any other.
        cost: C-Acc lost by the same defense, task and learner without an attack; None without such a record.
        reference: why this is no defense to be ranked, such as "no defense"; empty for a defense.
        rank: by net ASR among the defenses that met the same attack in the same setting, 1 for the lowest: the 95 % interval that holds for
            all of them at once; None where nothing is compared.
        compared: number of cells that are ranked together, this one with them.
        unranked: why a cell that met an attack with a target is not ranked; empty if it is.
        unit: what radii count, and over whose draws they hold; empty without a certificate.
        relation: between which neighbours and over whose draws epsilon holds; empty without one.
        unseen: checks of today that were not made for these records.
        curves: means over seeds; "certified" over radii, "rounds" over federated rounds.
        seeds: one a record.
    """

    kind: str
    task: str
    family: str
    threat: str
    attack: str
    rate: float | None
    defense: str
    learner: str
    setting: str
    command: str
    figures: Mapping[str, Figure]
    damage: str = ""
    cost: Figure | None = None
    reference: str
    rank: tuple[int, int] | None = None
    compared: int = 0
    unranked: str = ""
    unit: str
    relation: str
    unseen: tuple[str, ...]
    curves: Mapping[str, list[float]]
    seeds: Sequence[Mapping[str, object]]

    @property
    def met(self) -> Met:
        """What the defense met; cells in which it is equal are compared with each other."""
        return Met(self.task, self.attack, self.rate, self.learner, self.setting)

    @property
    def skipped(self) -> bool:
        """Whether no seed was run, because the pair cannot be run."""
        return all(seed.get("status") == "skipped" for seed in self.seeds)

    @property
    def harm(self) -> Figure | None:
        """What the attack achieved; None where nothing was measured."""
        return self.figures.get(self.damage)


def folded(records: Iterable[Record]) -> list[Cell]:
    """Return the cells of all records, seeds folded, in a fixed order."""
    records = list(records)
    failures, found = Failures.among(records), cells_of(records)
    values = [values_of(mine, failures) for _, mine in found]
    cells = [_cell(named, mine, figures) for (named, mine), figures in zip(found, figures_of(values), strict=True)]
    clean = _without_attack(records)
    partners = [_partners(mine, clean) for _, mine in found]
    reasons = [_unranked(mine, calm, failures) for (_, mine), calm in zip(found, partners, strict=True)]
    return _ranked(_judged(cells, records, _costs(partners, failures)), values, reasons)


def _learner(record: Record) -> str:
    learner = record.spec.get("learner")
    return plain(str(learner.get("class", "")).rpartition(".")[2]) if isinstance(learner, Mapping) else ""


def _costs(partners: Sequence[Sequence[Record]], failures: Failures) -> list[Figure | None]:
    """Return, for each cell, the C-Acc that its defense loses without an attack."""
    each = [[failed(record, failures)["c_acc_lost"] if record.status == "failed" else lost(record) for record in calm] for calm in partners]
    values = [{"c_acc_lost": known} if (known := [value for value in several if value is not None]) else {} for several in each]
    return [figures.get("c_acc_lost") for figures in figures_of(values)]


def _judged(cells: Sequence[Cell], records: Sequence[Record], costs: Sequence[Figure | None]) -> list[Cell]:
    """Add to each cell what its attack achieves and what its defense costs."""
    lowering = {plain(name_of(record, "attack")) for record in records if record.status == "done" and "c_acc_lost" in goal(record, "metrics")}

    def damage(cell: Cell) -> str:
        return "net_asr" if "net_asr" in cell.figures else "c_acc_lost" if cell.attack in lowering else ""

    return [replace(cell, damage="" if cell.attack == "none" else damage(cell), cost=cost) for cell, cost in zip(cells, costs, strict=True)]


def _ranked(cells: Sequence[Cell], values: Sequence[Mapping[str, list[float]]], reasons: Sequence[str]) -> list[Cell]:
    met: dict[Met, dict[int, list[float]]] = {}
    for place, cell in enumerate(cells):
        if "net_asr" in values[place] and not reasons[place]:
            met.setdefault(cell.met, {})[place] = values[place]["net_asr"]
    found: dict[int, tuple[tuple[int, int], int]] = {}
    for board in met.values():
        intervals = ranks({str(place): dict(enumerate(several)) for place, several in board.items()}) if len(board) > 1 else {}
        found |= {int(place): (rank, len(board)) for place, rank in intervals.items()}
    ranked = [replace(cell, rank=found[place][0], compared=found[place][1]) if place in found else cell for place, cell in enumerate(cells)]
    return [replace(cell, unranked=reason if cell.damage == "net_asr" else "") for cell, reason in zip(ranked, reasons, strict=True)]


def _bare(record: Record) -> str:
    """Return task, net, learner and defense of a record, as text."""
    return json.dumps([record.spec.get(part) for part in ("task", "net", "learner", "defense")], sort_keys=True)


def _without_attack(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        if name_of(record, "attack") == "none" and record.status != "skipped":
            found.setdefault(_bare(record), []).append(record)
    return found


def _partners(records: Sequence[Record], clean: Mapping[str, list[Record]]) -> list[Record]:
    """Return the records of the same defense, task and learner without an attack."""
    return list({record.key: record for one in records for record in clean.get(_bare(one), [])}.values())


def _unranked(records: Sequence[Record], partners: Sequence[Record], failures: Failures) -> str:
    """Return why a cell is not ranked: what the defense costs without an attack, or what the attack takes from the defended model alone."""
    defense, mine = records[0].spec.get("defense"), [record for record in records if record.status != "skipped"]
    if not _acts(defense):
        return ""  # nothing is done, so nothing is lost
    source = partners or mine
    if not all(any(record.status == "done" for record in several) for several in (source, mine)):
        return "no seed was done"
    where = "without an attack" if partners else "under the attack, with no record without one"
    costs = _points(_c_acc(source, "baseline"), _defended(source, failures))
    taken = _points(_c_acc(mine, "undefended"), _defended(mine, failures))
    reasons = [f"loses {costs} points of C-Acc {where}"] if costs else []
    reasons += [f"under the attack its C-Acc is {taken} points below that of the undefended model"] if taken else []
    return "; ".join(reasons)


def _c_acc(records: Sequence[Record], part: Part) -> list[float]:
    return [value for record in records if record.status == "done" and (value := number(getattr(record, part).get("c_acc"))) is not None]


def _defended(records: Sequence[Record], failures: Failures) -> list[float]:
    """Return C-Acc of the defended models; failed seeds count."""
    return [value for record in records if (value := failures.figures(record).get("c_acc", defended(record, "c_acc"))) is not None]


def _points(before: Sequence[float], after: Sequence[float]) -> str:
    """Return by how many points the second mean lies below the first; nothing if by no more than LOSS."""
    lost = statistics.fmean(before) - statistics.fmean(after) if before and after else 0.0
    return f"{100 * lost:.1f}" if round(lost, 9) > LOSS else ""  # 0.9 - 0.85 is above 0.05 by its last bits


def _cell(named: tuple[str, ...], records: Sequence[Record], figures: Mapping[str, Figure]) -> Cell:
    task, attack, rate, defense, setting = (plain(text) for text in named)
    done = [record for record in records if record.status == "done"]
    return Cell(
        kind=kind_of(records[0]).name,
        task=task,
        family=_family(records[0]),
        threat=_threat(records[0]),
        attack=attack,
        rate=float(rate.removesuffix(" %")) / 100 if rate and not rate.startswith(AT_MOST) else None,  # a maximum is no rate
        defense=defense,
        learner=_learner(records[0]),
        setting=setting,
        command=plain(" ".join(word for word in records[0].command.split(" ") if not word.startswith("seed="))),
        figures=figures,
        reference=_reference(records[0]),
        unit=plain(" or ".join(sorted({radii(record) for record in done if certified(record)}))),
        relation=plain(" or ".join(sorted({relation(record) for record in done if "epsilon" in record.facts}))),
        unseen=tuple(sorted({plain(sentence) for record in done for sentence in record.unseen})),
        curves=_curves(done),
        seeds=[_seed(record) for record in sorted(records, key=lambda record: (str(record.spec.get("seed")).zfill(9), record.key))],
    )


def _seed(record: Record) -> dict[str, object]:
    head = {"seed": record.spec.get("seed"), "record": record.key, "digest": record.result_digest[:16], "commit": str(record.provenance.get("commit", ""))[:10]}
    figures = {name: round(value, 4) for name in ("c_acc", "asr") if (value := FIGURES[name](record)) is not None}
    return head | figures | ({} if record.status == "done" else {"status": record.status, "reason": plain(record.reason)})


def _curves(records: Sequence[Record]) -> dict[str, list[float]]:
    curves_by_seed = {"certified": [certified(record) for record in records], "rounds": [_rounds(record) for record in records]}
    curves = {name: [[float(value) for value in curve] for curve in found if curve] for name, found in curves_by_seed.items()}
    return {name: [round(sum(values) / len(values), 4) for values in zip(*found, strict=False)] for name, found in curves.items() if found}


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
    return next((phrase for slot, phrase in acts.items() if slot in attack), rows)


def _acts(defense: object) -> bool:
    """Whether a defense has a slot, and so does anything."""
    return not isinstance(defense, Mapping) or bool(set(defense) - {"name"})


def _reference(record: Record) -> str:
    """Return why a cell is listed for comparison only; empty for a defense."""
    defense = record.spec.get("defense")
    if not _acts(defense):
        return "no defense"
    needs = defense.get("needs") if isinstance(defense, Mapping) else None
    return "knows which rows are poison" if isinstance(needs, list | tuple) and "truth" in needs else ""


def _family(record: Record) -> str:
    attack = record.spec.get("attack")
    slots = [attack.get(slot) for slot in ("update", "data", "train")] if isinstance(attack, Mapping) else []
    paths = [str(slot["class"]).split(".") for slot in slots if isinstance(slot, Mapping) and str(slot.get("class", "")).startswith("attacks.")]
    return plain(paths[0][1]) if paths else "none"
