"""The parts of a record other than figures: the specification, the names of the methods, the cost, and what the defense assumes."""

from __future__ import annotations

import dataclasses

from poisonbench.core.attack import Attack
from poisonbench.core.defense import Defense
from poisonbench.core.keys import canonical, key
from poisonbench.core.proof import needs
from poisonbench.core.threat import assumptions
from poisonbench.learn.device import peak_bytes
from poisonbench.runner.experiment import Experiment
from poisonbench.runner.stages import Line
from poisonbench.storage.record import Record, provenance
from poisonbench.storage.store import Visit


def record_of(line: Line) -> Record:
    """Return a record without figures: the specification, where it runs, and its cost so far."""
    experiment, visits = line.experiment, dict[str, Visit]()
    for visit in line.store.visits[line.since :]:
        visits.setdefault(visit.stage, visit)  # later visits of a stage find the value that the first one computed
    runtime = experiment.learner.runtime
    kept = ("poison", "fit on public rows", "fit baseline", "fit undefended", "fit defended", "judge", "repair")
    cost = {
        "seconds": {stage: round(visit.seconds, 3) for stage, visit in visits.items()},
        "from_store": sorted(stage for stage, visit in visits.items() if not visit.made),
        "peak_bytes": peak_bytes(),
    }
    return Record(
        spec=spec(experiment),
        assumed=assumed(experiment),
        keys={stage: visits[stage].key for stage in kept if stage in visits},
        cost=cost,
        provenance={**provenance(), **runtime, "data_digest": experiment.task.digest},
    )


def assumed(experiment: Experiment) -> dict[str, object]:
    """Return what the defense assumes about the attack, by its key in the configuration, and the source of each value."""
    rate = experiment.threat.budget.share(len(experiment.task.train))
    poisons = bool(filled("attack", experiment.attack))

    def source(value: float) -> str:
        if not poisons:
            return "a stated assumption: attack=none poisons nothing"
        return "the threat's own rate" if value == rate else "a stated assumption, not the threat's own rate"

    return {place: {"value": value, "source": source(value)} for place, value in assumptions(experiment.defense, "defense")}


def spec(experiment: Experiment) -> dict[str, object]:
    """Return the specification; two runs with equal specifications are the same experiment."""
    task, learner = experiment.task, canonical(experiment.learner)
    assert isinstance(learner, dict)
    net = learner.pop("net", None)
    rows = {name: len(getattr(task, name)) for name in ("train", "trusted", "public", "test")}
    written = canonical(experiment.threat)
    assert isinstance(written, dict)
    threat = {name: part for name, part in written.items() if name not in ("class", "version")} | {"surrogate": key(experiment.threat.surrogate)[:16]}
    return {
        "attack": {"name": name_of(experiment.attack), **_slots(experiment.attack)},
        "defense": {"name": name_of(experiment.defense), **_slots(experiment.defense)},
        "task": {"name": task.name, **({"form": task.train.form.NAME} if task.train.form.KEYED else {}), "digest": task.digest, "rows": rows},
        "net": net,
        "learner": learner,
        "threat": threat,
        "seed": experiment.seed,
        **({} if experiment.salt is None else {"salt": experiment.salt}),
    }


def filled(kind: str, plan: Attack | Defense) -> set[str]:
    """Return the slots of a plan that differ from their default, such as "defense.sanitize"."""
    return {f"{kind}.{field.name}" for field in dataclasses.fields(plan) if getattr(plan, field.name) != field.default}


def name_of(plan: Attack | Defense) -> str:
    """Return the names of the methods of a plan, which are those of their modules: "badnets", "spectral+fine_pruning", "none"."""
    slots = filled("plan", plan)
    modules = [module for field in dataclasses.fields(plan) if f"plan.{field.name}" in slots for module in _modules(getattr(plan, field.name))]
    return "+".join(dict.fromkeys(module.rpartition(".")[2] for module in modules)) or "none"


def _modules(part: object) -> list[str]:
    """Return the module of a plugin; for a class of poisonbench itself, the modules of the plugins inside it."""
    if not dataclasses.is_dataclass(part):
        return []
    if not type(part).__module__.startswith("poisonbench."):
        return [type(part).__module__]
    return [module for field in dataclasses.fields(part) for module in _modules(getattr(part, field.name))]


def _slots(plan: Attack | Defense) -> dict[str, object]:
    slots = {slot.partition(".")[2] for slot in filled("plan", plan)}
    declared = sorted(needs(plan))
    return {slot: canonical(getattr(plan, slot)) for slot in sorted(slots)} | ({"needs": declared} if declared else {})
