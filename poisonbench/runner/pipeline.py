"""One run from start to end: attack, audit, filter, training, repair, figures. The same code runs every attack and every defense."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from poisonbench.core.defense import Mean, Verdict
from poisonbench.core.delivery import Delivered
from poisonbench.core.errors import Incompatible, Refused
from poisonbench.core.goals import Probe
from poisonbench.core.learner import Victim
from poisonbench.core.manifest import row_digests
from poisonbench.core.plugins import check_arguments
from poisonbench.core.proof import needs
from poisonbench.core.reach import Counted
from poisonbench.core.stages import passes
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
SUMMED = ("poisoned", "poisoned_kept", "listed", "poisoned_listed", "benign", "benign_kept", "exposures", "probe", "hits")  # these differ by trial


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """The rows and the victims of one trial."""

    number: int
    poisoned: Delivered
    undefended: Victim
    verdict: Verdict | None
    defended: Victim


Witness: TypeAlias = "Callable[[Experiment, Sequence[Trial]], None]"


def run(experiment: Experiment, store: Store, witness: Witness | None = None) -> Record:
    """Run the experiment and return its record; values in the store are not computed again.

    Args:
        experiment: what is run.
        store: keeps values.
        witness: is shown the rows and the victims of all trials before figures are computed; it changes nothing.

    Raises:
        PoisonbenchError: the experiment cannot be run, for the reason in one sentence; there is no record.
        Diverged: a training gave values that are not finite.
    """
    line = Line(experiment=experiment, store=store, since=len(store.visits))
    try:
        check(line)
        return walked(line, witness)
    except Refused as error:
        return dataclasses.replace(record_of(line), status="skipped", reason=str(error), counts=refused(line))
    except Incompatible as error:
        return dataclasses.replace(record_of(line), status="skipped", reason=str(error))


def walked(line: Line, witness: Witness | None = None) -> Record:
    """Run the checked experiment and return its record; see `run`."""
    experiment = line.experiment
    numbers = range(experiment.threat.trials)
    struck = [line.strike(number) for number in numbers]
    stages, attacked = [numbered("fit", number) for number in numbers], line.combine(Mean())
    baseline = line.fit(line.learner, experiment.task.train, line.honest, label="baseline")
    undefended = line.fit_many(line.attacked, [poisoned.data for poisoned in struck], attacked, stages=stages, label="undefended")
    verdicts = [line.judge(poisoned, number) for number, poisoned in enumerate(struck)]
    kept = [poisoned.data if verdict is None else poisoned.data.take(verdict.keep) for poisoned, verdict in zip(struck, verdicts, strict=True)]
    defended = line.fit_many(line.defended, kept, line.combine(experiment.defense.aggregate), stages=stages, label="defended")
    trials = [Trial(number=n, poisoned=struck[n], undefended=undefended[n], verdict=verdicts[n], defended=defended[n]) for n in numbers]
    if witness is not None:
        witness(experiment, trials)
    by_trial = [measured(line, trial, baseline) for trial in trials]
    return dataclasses.replace(
        record_of(line),
        metrics=over_trials("metrics", by_trial),
        undefended=over_trials("undefended", by_trial),
        baseline=over_trials("baseline", by_trial),
        curves=over_trials("curves", by_trial),
        counts=total([each["counts"] for each in by_trial]),
        facts=by_trial[0]["facts"],
    )


def over_trials(part: str, by_trial: Sequence[Mapping[str, Figures]]) -> Figures:
    """Return one part of the record over all trials; an ASR over single targets gets a Clopper-Pearson interval."""
    figures = folded([each[part] for each in by_trial])
    if len(by_trial) > 1 and "asr" in figures and all(each["counts"]["probe"] == 1 for each in by_trial):
        hits = sum(each[part]["asr"] == 1 for each in by_trial)
        figures["asr_interval"] = list(clopper_pearson(hits, len(by_trial)))
    return figures


def total(counts: Sequence[Figures]) -> dict[str, int]:
    """Return the counts of all trials: summed if they differ by trial, else those of the first."""
    summed = SUMMED if len(counts) > 1 else ()
    both = {name: sum(int(str(each[name])) for each in counts) if name in summed else int(str(value)) for name, value in counts[0].items()}
    return both | ({"trials": len(counts)} if len(counts) > 1 else {})


def measured(line: Line, trial: Trial, baseline: Victim) -> dict[str, Figures]:
    """Repair the victim of one trial and return all its figures, by the parts of a record."""
    poisoned, verdict = trial.poisoned, trial.verdict
    probe = line.probe(poisoned, trial.number)
    mended = line.repair(trial.defended, verdict, poisoned, trial.number)
    repaired = {"baseline": baseline, "undefended": trial.undefended, "defended": mended.victim}
    figures = {name: measure(line, victim, probe, name) for name, victim in repaired.items()}
    check_arguments(poisoned.goal, "measure", "victim, test, rng")
    test, rng = line.experiment.task.test, line.root.child(numbered("goal", trial.number))
    goals = {name: {**poisoned.goal.measure(victim, test, rng)} for name, victim in repaired.items()}
    for name in ("undefended", "defended"):
        goals[name] |= poisoned.goal.compare(dict(figures[name]), dict(figures["baseline"]))  # copies, so that a goal cannot change a figure
    more: Figures = {
        **metrics.filtering(verdict, poisoned.kinds, poisoned.data.labels),
        **({"repair": mended.figures} if mended.figures else {}),
        **screened(line, mended.victim, poisoned, probe, trial.number),
        **certified(line, mended.victim, poisoned),
    }
    learners = {"baseline": line.learner, "undefended": line.attacked, "defended": line.defended}
    victims = {**repaired, "defended": trial.defended}  # without the repair, which comes after the last round
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
    """Return the facts of a training and of its repair. A repair does not change the epsilon of a private training.

    A repair that trains by the same private recipe has an epsilon for the defender's rows; the record keeps that of the training rows.
    Facts whose name begins with an underscore are internal and left out.
    """
    found = {**trained.facts, **({} if "epsilon" in mended.facts else mended.facts)}
    return {name: fact for name, fact in found.items() if not name.startswith("_")}


def apart(goal: Mapping[str, float]) -> Figures:
    """Return the figures of a goal under one name, so that they cannot replace other figures."""
    return {"goal": dict(goal)} if goal else {}


def folded(trials: Sequence[Figures]) -> Figures:
    """Return the mean over trials of every figure that all of them have.

    Curves are averaged at each place, with zeros after the end of short ones; texts are joined.
    """
    if len(trials) == 1:
        return trials[0]
    return {name: _mean([each[name] for each in trials]) for name in trials[0] if all(name in each for each in trials)}


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
    task = line.experiment.task
    keep = torch.ones(len(trial.poisoned.data), dtype=torch.bool) if trial.verdict is None else trial.verdict.keep
    numbers = of_rows(line, trial.poisoned, keep)
    if (often := passes(trial.defended.facts.get("epochs"), trial.poisoned.data)) is not None:
        numbers["exposures"] = int(often[trial.poisoned.kinds.poison & keep].sum())
    if (clients := int(task.train.owners.max()) + 1) > 1:
        numbers |= {"clients": clients, "malicious": len(line.malicious)}  # of all clients; facts count those of each round if only some take part
    numbers |= {"test": len(task.test), "classes": task.test.num_classes, "probe": len(probe)}
    if task.duplicates:
        numbers["duplicates"] = sum(map(len, task.duplicates.values()))  # rows that are in two splits
    if len(probe):
        numbers["hits"] = int(metrics.served(line.probed(victim, probe, "defended probe"), probe).sum())
    return numbers


def of_rows(line: Line, poisoned: Delivered, keep: Tensor) -> Figures:
    """Return how many rows of each kind the defender received, and how many of them the filter kept.

    Args:
        line: the stages of the run.
        poisoned: the N rows of one trial.
        keep: (N,) bool.
    """
    task, kinds, reach = line.experiment.task, poisoned.kinds, line.experiment.threat.reach
    numbers: Figures = {"train": len(task.train), "trusted": len(task.trusted)}
    numbers |= reach.counts(task.train, line.malicious) if isinstance(reach, Counted) else {}
    numbers |= {"poisoned": int(kinds.poison.sum()), "poisoned_kept": int((kinds.poison & keep).sum())}
    numbers |= {name: count for name in ("cover", "untouched", "injected") if (count := int(getattr(kinds, name).sum()))}
    if "manifest" in needs(line.experiment.defense):
        listed, benign = poisoned.manifest.lists(row_digests(poisoned.data)), ~(kinds.poison | kinds.cover)
        numbers |= {"listed": int(listed.sum()), "poisoned_listed": int((listed & kinds.poison).sum())}
        numbers |= {"benign": int(benign.sum()), "benign_kept": int((benign & keep).sum())}
    return numbers


def refused(line: Line) -> dict[str, int]:
    """Return the counts of a run whose filter refused the whole training set: it kept none of the rows of any trial."""
    trials = [line.strike(number) for number in range(line.experiment.threat.trials)]
    return total([of_rows(line, each, torch.zeros(len(each.data), dtype=torch.bool)) for each in trials])
