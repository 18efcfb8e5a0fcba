"""The straight line: reveal, strike, audit, judge, fit, repair, measure. It never asks what is plugged in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from poisonbench import metrics
from poisonbench.core.attack import Attack, Honest, Poisoned
from poisonbench.core.audit import audit
from poisonbench.core.data import Dataset, Task
from poisonbench.core.defense import Aggregator, Defense, Fit, KeepAll, Mean, Means, Tune, Verdict
from poisonbench.core.delta import Delta
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.goals import Probe
from poisonbench.core.keys import canonical, key
from poisonbench.core.learner import Combine, Learner, Unchanged, Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known, Threat
from poisonbench.learn.device import peak_bytes
from poisonbench.record import Record, provenance
from poisonbench.store import Store, Visit


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that a run depends on."""

    task: Task
    threat: Threat
    attack: Attack
    defense: Defense
    learner: Learner
    seed: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """A victim as the store keeps it."""

    state: Mapping[str, Tensor]
    facts: Mapping[str, object]


def run(experiment: Experiment, store: Store) -> Record:
    """Walk the line once and return its record; what the store holds is not computed again.

    Raises:
        PoisonbenchError: one sentence explains it; nothing was found worth recording.
        Diverged: a training that went to infinity.
    """
    line = Line(experiment=experiment, store=store, since=len(store.visits))
    reason = line.incompatible()
    if reason:
        return dataclasses.replace(line.record(), status="skipped", reason=reason)
    line.defended.check(experiment.task.train)
    poisoned = line.strike()
    probe = poisoned.goal.probe(experiment.task.test)
    baseline = line.fit(experiment.learner, experiment.task.train, line.honest, label="baseline")
    undefended = line.fit(line.attacked, poisoned.data, line.combine(Mean()), label="undefended")
    verdict = line.judge(poisoned)
    kept = poisoned.data if verdict is None else poisoned.data.take(verdict.keep)
    if len(kept) == 0:
        raise ConfigError("the filter removed every training row; lower what it expects, or the share that it removes")
    defended = line.fit(line.defended, kept, line.combine(experiment.defense.aggregate), label="defended")
    repaired = line.repair(defended, verdict, poisoned)
    told = {"baseline": baseline, "undefended": undefended, "defended": repaired}
    measured = {name: line.measure(victim, poisoned, probe, name) for name, victim in told.items()}
    more = {
        **metrics.filtering(verdict, poisoned.mask, poisoned.data.labels),
        **line.screen(repaired, poisoned, probe),
        **line.certify(repaired),
    }
    return dataclasses.replace(
        line.record(),
        metrics={**measured["defended"], **more},
        undefended=measured["undefended"],
        baseline=measured["baseline"],
        counts=line.counts(poisoned, verdict, defended, probe, repaired),
        facts=dict(repaired.facts),
    )


@dataclass(frozen=True, kw_only=True)
class Line:
    """The stages of one run: each asks the store first, with a seed that hangs on the stage alone."""

    experiment: Experiment
    store: Store
    since: int = 0  # visits of the store before this run

    @cached_property
    def root(self) -> Key:
        """The stream of the whole run."""
        return Key.root(self.experiment.seed)

    @cached_property
    def attacked(self) -> Learner:
        """The learner of the undefended victim."""
        return self.experiment.attack.train(self.experiment.learner)

    @cached_property
    def defended(self) -> Learner:
        """The learner of the defended victim."""
        return self.experiment.defense.train(self.attacked)

    @cached_property
    def malicious(self) -> Tensor:
        """The contributors under the attacker's hand."""
        return self.experiment.threat.malicious(self.experiment.task.train)

    @cached_property
    def honest(self) -> Combine:
        """Contributions as they come, averaged."""
        return Combine(craft=Honest(), aggregate=Mean(), malicious=self.malicious[:0])

    def combine(self, aggregate: Aggregator) -> Combine:
        """Contributions under attack, combined by `aggregate`."""
        return Combine(craft=self.experiment.attack.update, aggregate=aggregate, malicious=self.malicious)

    def incompatible(self) -> str:
        """Return why this combination cannot be run, or nothing."""
        attack, defense = self.experiment.attack, self.experiment.defense
        outside = attack.train != Unchanged()
        if outside and (defense.sanitize != KeepAll() or defense.train != Unchanged()):
            return "the attacker runs the training, so defense.sanitize and defense.train never see it"
        try:
            honoured = self.defended.stages
        except Incompatible as error:
            return str(error)
        asked = filled("attack", attack) | filled("defense", defense)
        missing = sorted(asked - honoured)
        return f"{type(self.experiment.learner).__name__} has no place for {', '.join(missing)}" if missing else ""

    def fit(self, learner: Learner, data: Dataset, combine: Combine, *, stage: str = "fit", label: str = "") -> Victim:
        """Train, or find the victim that was trained on the same rows from the same seed."""
        rng = self.root.child(stage)

        def train() -> Trained:
            victim = learner.fit(data, combine, rng)
            return Trained(state=dict(victim.state()), facts=dict(victim.facts))

        trained = self.store.memo("fit", (learner, data, combine, rng, learner.runtime), train, label=label)
        return learner.restore(trained.state, trained.facts, data)

    def tuning(self, learner: Learner, stage: str) -> Tune:
        """Return a `Tune` that trains on with the same recipe, from the seed of `stage`."""
        rng = self.root.child(stage).child("tune")

        def tune(victim: Victim, data: Dataset, *, epochs: int) -> Victim:
            longer = learner.with_epochs(epochs)

            def train() -> Trained:
                tuned = longer.fit(data, self.honest, rng, victim)
                return Trained(state=dict(tuned.state()), facts=dict(tuned.facts))

            trained = self.store.memo("tune", (longer, data, victim.state(), rng, longer.runtime), train)
            return longer.restore(trained.state, trained.facts, data)

        return tune

    def fitting(self, learner: Learner, combine: Combine, stage: str, label: str) -> Fit:
        """Return a `Fit` whose first draw has the seed of `stage`, and every other one its own."""

        def fit(data: Dataset, *, draw: int = 0) -> Victim:
            return self.fit(learner, data, combine, stage=f"{stage}/{draw}" if draw else stage, label=label)

        return fit

    def known(self) -> Known:
        """Return the attacker's world; surrogates have a seed stream of their own, never the victim's."""
        threat = self.experiment.threat
        fit = self.fitting(threat.surrogate, self.honest, "surrogate", "for the attacker")
        return threat.reveal(self.experiment.task, fit, self.tuning(threat.surrogate, "surrogate"))

    def strike(self) -> Poisoned:
        """Let the attacker act, then audit what was done."""
        task, threat, attack = self.experiment.task, self.experiment.threat, self.experiment.attack
        known, rng = self.known(), self.root.child("poison")

        def poison() -> Delta:
            poisoned = attack.data.poison(known, rng)
            audit(task.train, poisoned, threat.budget, known.writable)
            return Delta.between(task.train, poisoned)

        parts = (attack.data, task.train, task.public, threat, rng, threat.surrogate.runtime)
        return self.store.memo("poison", parts, poison).apply(task.train)

    def means(self, poisoned: Poisoned, plugin: object) -> Means:
        """Return the defender's world; the truth is in it only for a plugin that declares to need it."""
        tune = self.tuning(self.experiment.learner, "fit")
        told = "truth" in getattr(plugin, "NEEDS", frozenset())
        fit = self.fitting(self.attacked, self.combine(Mean()), "fit", "for the defender")
        return Means(trusted=self.experiment.task.trusted, fit=fit, tune=tune, truth=poisoned.mask if told else poisoned.mask[:0])

    def judge(self, poisoned: Poisoned) -> Verdict | None:
        """Let the sanitizer judge the rows."""
        sanitize, rng = self.experiment.defense.sanitize, self.root.child("sanitize")
        means = self.means(poisoned, sanitize)
        parts = (sanitize, self.attacked, poisoned.data, means.trusted, means.truth, self.combine(Mean()), rng, self.attacked.runtime)
        return self.store.memo("judge", parts, lambda: sanitize.judge(poisoned.data, means, rng))

    def repair(self, victim: Victim, verdict: Verdict | None, poisoned: Poisoned) -> Victim:
        """Let the repairer mend the victim."""
        repair, rng = self.experiment.defense.repair, self.root.child("repair")
        means = self.means(poisoned, repair)

        def mend() -> Trained:
            mended = repair.repair(victim, verdict, means, rng)
            return Trained(state=dict(mended.state()), facts=dict(mended.facts))

        parts = (repair, self.defended, victim.state(), verdict, means.trusted, means.truth, rng, self.defended.runtime)
        trained = self.store.memo("repair", parts, mend)
        return self.defended.restore(trained.state, trained.facts, poisoned.data)

    def scores(self, victim: Victim, inputs: Tensor, answers: Tensor | None, label: str) -> Tensor:
        """Ask the victim, once for each set of inputs."""
        parts = (type(victim).__qualname__, self.defended, victim.state(), inputs, answers, self.defended.runtime)
        return self.store.memo("scores", parts, lambda: victim.scores(inputs, answers), label=label)

    def measure(self, victim: Victim, poisoned: Poisoned, probe: Probe, label: str) -> dict[str, object]:
        """Return C-Acc, ASR, R-Acc and what else the goal measures."""
        test = self.experiment.task.test
        figures: dict[str, object] = {"c_acc": metrics.accuracy(self.scores(victim, test.inputs, None, label), test.labels)}
        if len(probe):
            figures |= metrics.success(self.scores(victim, probe.inputs, probe.answers, f"{label} probe"), probe)
        return figures | dict(poisoned.goal.measure(victim))

    def screen(self, victim: Victim, poisoned: Poisoned, probe: Probe) -> dict[str, object]:
        """Let the screen judge trusted, test and probed inputs."""
        screen, task = self.experiment.defense.screen, self.experiment.task
        inputs = {"trusted": task.trusted.inputs, "test": task.test.inputs, "probe": probe.inputs}
        means, suspicion = self.means(poisoned, screen), {}
        for name, rows in inputs.items():
            judged = screen.suspicion(victim, rows, means, self.root.child(f"screen/{name}")) if len(rows) else torch.zeros(0)
            if judged is None:
                return {}
            suspicion[name] = judged
        scores = {
            "test": self.scores(victim, task.test.inputs, None, "screened"),
            "probe": self.scores(victim, probe.inputs, probe.answers, "screened probe") if len(probe) else torch.zeros(0),
        }
        return {"screen": metrics.screening(scores, suspicion, task.test, probe)}

    def certify(self, victim: Victim) -> dict[str, object]:
        """Let the certifier prove what it can."""
        radii = self.experiment.defense.certify.certify(victim, self.experiment.task.test)
        return {} if radii is None else metrics.certified(radii)

    def counts(self, poisoned: Poisoned, verdict: Verdict | None, defended: Victim, probe: Probe, victim: Victim) -> dict[str, int]:
        """Return the absolute numbers behind the fractions."""
        task = self.experiment.task
        kept = poisoned.mask if verdict is None else poisoned.mask & verdict.keep
        counts = {"train": len(task.train), "trusted": len(task.trusted), "poisoned": int(poisoned.mask.sum()), "poisoned_kept": int(kept.sum())}
        if isinstance(epochs := defended.facts.get("epochs"), int):
            counts["exposures"] = int(kept.sum()) * epochs
        counts |= {"test": len(task.test), "probe": len(probe)}
        if len(probe):
            counts["hits"] = int(metrics.served(self.scores(victim, probe.inputs, probe.answers, "defended probe"), probe).sum())
        return counts

    def record(self) -> Record:
        """Return a record of what was asked, where, and what it has cost so far."""
        experiment, visits = self.experiment, dict[str, Visit]()
        for visit in self.store.visits[self.since :]:
            visits.setdefault(visit.stage, visit)  # later visits of a stage only find what the first one made
        runtime = self.experiment.learner.runtime
        kept = ("poison", "fit baseline", "fit undefended", "fit defended", "judge", "repair")
        cost = {
            "seconds": {stage: round(visit.seconds, 3) for stage, visit in visits.items()},
            "from_store": sorted(stage for stage, visit in visits.items() if not visit.made),
            "peak_bytes": peak_bytes(),
        }
        return Record(
            spec=spec(experiment),
            keys={stage: visits[stage].key for stage in kept if stage in visits},
            cost=cost,
            provenance={**provenance(), **runtime, "data_digest": experiment.task.digest},
        )


def spec(experiment: Experiment) -> dict[str, object]:
    """Write down what was asked; two runs with equal specs are the same experiment."""
    task, learner = experiment.task, canonical(experiment.learner)
    assert isinstance(learner, dict)
    net = learner.pop("net", None)
    rows = {name: len(getattr(task, name)) for name in ("train", "trusted", "public", "test")}
    threat = {"budget": canonical(experiment.threat.budget), "surrogate": key(experiment.threat.surrogate)[:16]}
    return {
        "attack": {"name": name_of(experiment.attack), **_slots(experiment.attack)},
        "defense": {"name": name_of(experiment.defense), **_slots(experiment.defense)},
        "task": {"name": task.name, "digest": task.digest, "rows": rows},
        "net": net,
        "learner": learner,
        "threat": threat,
        "seed": experiment.seed,
    }


def filled(kind: str, plan: Attack | Defense) -> set[str]:
    """Return the slots of a plan that do something, such as "defense.sanitize"."""
    return {f"{kind}.{field.name}" for field in dataclasses.fields(plan) if getattr(plan, field.name) != field.default}


def name_of(plan: Attack | Defense) -> str:
    """Return the methods of a plan by the modules they lie in: "badnets", "spectral+fine_pruning", "none"."""
    slots = sorted(slot.partition(".")[2] for slot in filled("plan", plan))
    named = [type(getattr(plan, field.name)).__module__.rpartition(".")[2] for field in dataclasses.fields(plan) if field.name in slots]
    return "+".join(dict.fromkeys(named)) or "none"


def _slots(plan: Attack | Defense) -> dict[str, object]:
    slots = {slot.partition(".")[2] for slot in filled("plan", plan)}
    return {slot: canonical(getattr(plan, slot)) for slot in sorted(slots)}
