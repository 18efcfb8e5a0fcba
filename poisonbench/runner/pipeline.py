"""The straight line: reveal, strike, audit, judge, fit, repair, measure. It never asks what is plugged in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from poisonbench.core.attack import Attack
from poisonbench.core.defense import Defense, KeepAll, Mean, Verdict
from poisonbench.core.delivery import Delivered
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.goals import Probe
from poisonbench.core.keys import canonical, key
from poisonbench.core.learner import PlainStep, Unchanged, Victim
from poisonbench.core.proof import check_proofs, needs
from poisonbench.core.threat import assumptions
from poisonbench.learn.device import peak_bytes
from poisonbench.runner import metrics
from poisonbench.runner.stages import Experiment, Line, numbered, under_attack
from poisonbench.stats import clopper_pearson
from poisonbench.storage.record import Record, provenance
from poisonbench.storage.store import Store, Visit

__all__ = ["Experiment", "Line", "run"]

Figures = dict[str, object]
UPDATES, ROWS = {"attack.update", "defense.aggregate"}, {"attack.train", "defense.sanitize", "defense.train"}  # in federated learning, in one place


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """What one trial came to, before it is measured."""

    number: int
    poisoned: Delivered
    undefended: Victim
    verdict: Verdict | None
    defended: Victim


def run(experiment: Experiment, store: Store) -> Record:
    """Walk the line once and return its record; what the store holds is not computed again.

    Raises:
        PoisonbenchError: one sentence explains it; nothing was found worth recording.
        Diverged: a training that went to infinity.
    """
    line = Line(experiment=experiment, store=store, since=len(store.visits))
    try:
        check(line)
        return walked(line)
    except Incompatible as error:
        return dataclasses.replace(record(line), status="skipped", reason=str(error))


def walked(line: Line) -> Record:
    """Run an experiment that `check` has accepted, and return its record."""
    experiment = line.experiment
    numbers = range(experiment.threat.trials)
    struck = [line.strike(number) for number in numbers]
    stages, under_attack = [numbered("fit", number) for number in numbers], line.combine(Mean())
    baseline = line.fit(line.learner, experiment.task.train, line.honest, label="baseline")
    undefended = line.fit_many(line.attacked, [poisoned.data for poisoned in struck], under_attack, stages=stages, label="undefended")
    verdicts = [line.judge(poisoned, number) for number, poisoned in enumerate(struck)]
    kept = [poisoned.data if verdict is None else poisoned.data.take(verdict.keep) for poisoned, verdict in zip(struck, verdicts, strict=True)]
    defended = line.fit_many(line.defended, kept, line.combine(experiment.defense.aggregate), stages=stages, label="defended")
    trials = [Trial(number=n, poisoned=struck[n], undefended=undefended[n], verdict=verdicts[n], defended=defended[n]) for n in numbers]
    told = [measured(line, trial, baseline) for trial in trials]
    return dataclasses.replace(
        record(line),
        metrics=over_trials("metrics", told),
        undefended=over_trials("undefended", told),
        baseline=over_trials("baseline", told),
        curves=over_trials("curves", told),
        counts=total([cell["counts"] for cell in told]),
        facts=told[0]["facts"],
    )


def over_trials(part: str, told: Sequence[Mapping[str, Figures]]) -> Figures:
    """Return one part of the record over all trials; an ASR over several single targets has its Clopper-Pearson interval."""
    figures = folded([cell[part] for cell in told])
    if len(told) > 1 and "asr" in figures and all(cell["counts"]["probe"] == 1 for cell in told):
        hits = sum(cell[part]["asr"] == 1 for cell in told)
        figures["asr_interval"] = list(clopper_pearson(hits, len(told)))
    return figures


def total(counts: Sequence[Figures]) -> dict[str, int]:
    """Return the counts of one trial, or those of all together where they differ by trial."""
    summed = ("poisoned", "poisoned_kept", "exposures", "probe", "hits") if len(counts) > 1 else ()
    both = {name: sum(int(str(cell[name])) for cell in counts) if name in summed else int(str(value)) for name, value in counts[0].items()}
    return both | ({"trials": len(counts)} if len(counts) > 1 else {})


def measured(line: Line, trial: Trial, baseline: Victim) -> dict[str, Figures]:
    """Repair one trial's victim and return every figure of it, by the parts of a record."""
    poisoned, verdict = trial.poisoned, trial.verdict
    probe = line.probe(poisoned, trial.number)
    mended = line.repair(trial.defended, verdict, poisoned, trial.number)
    told = {"baseline": baseline, "undefended": trial.undefended, "defended": mended.victim}
    figures = {name: line.measure(victim, probe, name) for name, victim in told.items()}
    goals = {name: {**poisoned.goal.measure(victim)} for name, victim in told.items()}
    for name in ("undefended", "defended"):
        goals[name] |= poisoned.goal.compare(dict(figures[name]), dict(figures["baseline"]))  # copies: a goal changes no figure
    more: Figures = {
        **metrics.filtering(verdict, poisoned.kinds, poisoned.data.labels),
        **({"repair": mended.figures} if mended.figures else {}),
        **line.screen(mended.victim, poisoned, probe, trial.number),
        **line.certify(mended.victim, poisoned),
    }
    learners = {"baseline": line.learner, "undefended": line.attacked, "defended": line.defended}
    victims = {**told, "defended": trial.defended}  # a repair comes after the last round
    curves: Figures = {name: curve for name, victim in victims.items() if (curve := line.history(learners[name], victim, probe))}
    return {
        "metrics": {**figures["defended"], **more, **apart(goals["defended"])},
        "undefended": {**figures["undefended"], **apart(goals["undefended"])},
        "baseline": {**figures["baseline"], **apart(goals["baseline"])},
        "curves": curves,
        "counts": counts(line, trial, probe, mended.victim),
        "facts": facts(trial.defended, mended.victim),
    }


def facts(trained: Victim, mended: Victim) -> Figures:
    """Return the facts of a training and of its repair: what a repair does to a private model takes nothing from its epsilon.

    A repair that trains by the same private recipe, on rows of the defender's own, has an epsilon too; that of the training rows stands.
    Facts with an underscore in front of their name are for the victim alone.
    """
    told = {**trained.facts, **({} if "epsilon" in mended.facts else mended.facts)}
    return {name: fact for name, fact in told.items() if not name.startswith("_")}


def apart(goal: Mapping[str, float]) -> Figures:
    """Return a goal's own figures under one name, so that none of them can take the place of another figure."""
    return {"goal": dict(goal)} if goal else {}


def folded(cells: Sequence[Figures]) -> Figures:
    """Return the mean over trials of every figure that all of them have; curves place by place, short ones ended by zeros; texts joined."""
    if len(cells) == 1:
        return cells[0]
    return {name: _mean([cell[name] for cell in cells]) for name in cells[0] if all(name in cell for cell in cells)}


def _mean(values: Sequence[object]) -> object:
    if isinstance(values[0], Mapping):
        return folded([dict(value) for value in values if isinstance(value, Mapping)])
    if isinstance(values[0], list):
        lists = [value for value in values if isinstance(value, list)]
        longest = max(map(len, lists))
        return [sum(value[place] if place < len(value) else 0.0 for value in lists) / len(lists) for place in range(longest)]
    if isinstance(values[0], str):
        return " or ".join(sorted({str(value) for value in values}))
    return sum(value for value in values if isinstance(value, int | float)) / len(values)


def counts(line: Line, trial: Trial, probe: Probe, victim: Victim) -> Figures:
    """Return the absolute numbers behind the fractions."""
    task, kinds = line.experiment.task, trial.poisoned.kinds
    kept = kinds.poison if trial.verdict is None else kinds.poison & trial.verdict.keep
    told: Figures = {"train": len(task.train), "trusted": len(task.trusted), "poisoned": int(kinds.poison.sum()), "poisoned_kept": int(kept.sum())}
    told |= {name: count for name in ("cover", "untouched", "injected") if (count := int(getattr(kinds, name).sum()))}
    if isinstance(epochs := trial.defended.facts.get("epochs"), int):
        told["exposures"] = int(kept.sum()) * epochs
    if (clients := int(task.train.owners.max()) + 1) > 1:
        told |= {"clients": clients, "malicious": len(line.malicious)}  # of all clients; facts say more where only some take part in a round
    told |= {"test": len(task.test), "classes": task.test.num_classes, "probe": len(probe)}
    if task.duplicates:
        told["duplicates"] = sum(map(len, task.duplicates.values()))  # rows that lie in two splits
    if len(probe):
        told["hits"] = int(metrics.served(line.scores(victim, probe.inputs, probe.answers, "defended probe"), probe).sum())
    return told


def check(line: Line) -> None:
    """Find what cannot be run before anything is computed.

    Raises:
        Incompatible: a combination that no slot of the learner honours; the run is skipped.
        PoisonbenchError: one sentence explains it.
    """
    line.experiment.task.check_test()
    check_training(line)


def check_training(line: Line) -> None:
    """Find what cannot be trained or judged before anything is computed; test rows have no part in it.

    Raises:
        Incompatible: a combination that no slot of the learner honours; the run is skipped.
        PoisonbenchError: one sentence explains it.
    """
    experiment = line.experiment
    attack, defense = experiment.attack, experiment.defense
    experiment.task.check()
    if attack.train != PlainStep() and (defense.sanitize != KeepAll() or defense.train != Unchanged()):
        raise Incompatible(
            "the attacker runs the training, so defense.sanitize and defense.train never see it; choose a repair or a screen, such as defense=fine_tune"
        )
    learner = defense.train(under_attack(experiment, experiment.learner))
    asked = filled("attack", attack) | filled("defense", defense)
    if missing := sorted(asked - learner.stages):
        raise Incompatible("; ".join(filter(None, (f"{type(learner).__name__} has no place for {', '.join(missing)}", way_out(asked, missing)))))
    check_proofs(attack.train, defense, learner)
    if "trusted" in needs(experiment.defense) and len(experiment.task.trusted) == 0:
        raise ConfigError("this defense needs clean rows of its own; set task.trusted to a share above 0, such as 0.05")
    known = learner.with_public(experiment.task.public, None)
    known.check(experiment.task.train, line.combine(experiment.defense.aggregate))


def way_out(asked: set[str], missing: Sequence[str]) -> str:
    """Return what to ask for instead, if we know it, for slots that a learner does not have, among all that are asked for."""
    if asked & UPDATES and asked & ROWS:
        other = "attack=backdoor" if "attack.update" in asked else f"one of {' and '.join(sorted(asked & (UPDATES | ROWS)))}"
        return f"updates are combined in federated learning, where nobody holds all rows: use {other}"
    if UPDATES & set(missing):
        return "updates are combined in federated learning: use learner=federated" + (", or attack=federated" if "attack.update" not in asked else "")
    if "defense.repair" in missing:
        return "a repair mends one network: use learner=small, and no ensemble"
    return "use learner=small" if ROWS & set(missing) else ""


def record(line: Line) -> Record:
    """Return a record of what was asked, where, and what it has cost so far."""
    experiment, visits = line.experiment, dict[str, Visit]()
    for visit in line.store.visits[line.since :]:
        visits.setdefault(visit.stage, visit)  # later visits of a stage only find what the first one made
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


def assumed(experiment: Experiment) -> Figures:
    """Return what the defense takes for granted about the attack, by place in the configuration, and where it comes from."""
    rate = experiment.threat.budget.share(len(experiment.task.train))
    poisons = bool(filled("attack", experiment.attack))

    def source(value: float) -> str:
        if not poisons:
            return "a stated assumption: attack=none poisons nothing"
        return "the threat's own rate" if value == rate else "a stated assumption, not the threat's own rate"

    return {place: {"value": value, "source": source(value)} for place, value in assumptions(experiment.defense, "defense")}


def spec(experiment: Experiment) -> dict[str, object]:
    """Write down what was asked; two runs with equal specs are the same experiment."""
    task, learner = experiment.task, canonical(experiment.learner)
    assert isinstance(learner, dict)
    net = learner.pop("net", None)
    rows = {name: len(getattr(task, name)) for name in ("train", "trusted", "public", "test")}
    threat = {field.name: canonical(getattr(experiment.threat, field.name)) for field in dataclasses.fields(experiment.threat)}
    threat["surrogate"] = key(experiment.threat.surrogate)[:16]
    return {
        "attack": {"name": name_of(experiment.attack), **_slots(experiment.attack)},
        "defense": {"name": name_of(experiment.defense), **_slots(experiment.defense)},
        "task": {"name": task.name, "digest": task.digest, "rows": rows},
        "net": net,
        "learner": learner,
        "threat": threat,
        "seed": experiment.seed,
        **({} if experiment.salt is None else {"salt": experiment.salt}),
    }


def filled(kind: str, plan: Attack | Defense) -> set[str]:
    """Return the slots of a plan that do something, such as "defense.sanitize"."""
    return {f"{kind}.{field.name}" for field in dataclasses.fields(plan) if getattr(plan, field.name) != field.default}


def name_of(plan: Attack | Defense) -> str:
    """Return the methods of a plan by the modules they lie in: "badnets", "spectral+fine_pruning", "none"."""
    slots = filled("plan", plan)
    modules = [module for field in dataclasses.fields(plan) if f"plan.{field.name}" in slots for module in _modules(getattr(plan, field.name))]
    return "+".join(dict.fromkeys(module.rpartition(".")[2] for module in modules)) or "none"


def _modules(part: object) -> list[str]:
    """Return the module of a plugin; of what the engine itself offers, those of the plugins inside."""
    if not dataclasses.is_dataclass(part):
        return []
    if not type(part).__module__.startswith("poisonbench."):
        return [type(part).__module__]
    return [module for field in dataclasses.fields(part) for module in _modules(getattr(part, field.name))]


def _slots(plan: Attack | Defense) -> dict[str, object]:
    slots = {slot.partition(".")[2] for slot in filled("plan", plan)}
    declared = sorted(needs(plan))
    return {slot: canonical(getattr(plan, slot)) for slot in sorted(slots)} | ({"needs": declared} if declared else {})
