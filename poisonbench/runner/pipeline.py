"""The straight line: reveal, strike, audit, judge, fit, repair, measure. It never asks what is plugged in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from poisonbench.core.defense import Mean, Verdict
from poisonbench.core.delivery import Delivered
from poisonbench.core.errors import Incompatible
from poisonbench.core.goals import Probe
from poisonbench.core.learner import Victim
from poisonbench.runner import metrics
from poisonbench.runner.check import check
from poisonbench.runner.experiment import Experiment
from poisonbench.runner.measure import certified, history, measure, screened
from poisonbench.runner.spec import record_of
from poisonbench.runner.stages import Line, numbered
from poisonbench.stats import clopper_pearson
from poisonbench.storage.record import Record
from poisonbench.storage.store import Store

Figures = dict[str, object]


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
        return dataclasses.replace(record_of(line), status="skipped", reason=str(error))


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
        record_of(line),
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
    figures = {name: measure(line, victim, probe, name) for name, victim in told.items()}
    goals = {name: {**poisoned.goal.measure(victim)} for name, victim in told.items()}
    for name in ("undefended", "defended"):
        goals[name] |= poisoned.goal.compare(dict(figures[name]), dict(figures["baseline"]))  # copies: a goal changes no figure
    more: Figures = {
        **metrics.filtering(verdict, poisoned.kinds, poisoned.data.labels),
        **({"repair": mended.figures} if mended.figures else {}),
        **screened(line, mended.victim, poisoned, probe, trial.number),
        **certified(line, mended.victim, poisoned),
    }
    learners = {"baseline": line.learner, "undefended": line.attacked, "defended": line.defended}
    victims = {**told, "defended": trial.defended}  # a repair comes after the last round
    curves: Figures = {name: curve for name, victim in victims.items() if (curve := history(line, learners[name], victim, probe))}
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
