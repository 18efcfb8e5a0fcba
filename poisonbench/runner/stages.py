"""The stages of one run. Each looks in the store first, and its random seed depends on the stage alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from poisonbench.core.ask import SCORES, Scores
from poisonbench.core.attack import Honest, Poisoned, UpdateAttack
from poisonbench.core.audit import audit, audit_probe, left_alone
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Aggregator, Fit, Mean, Means, Mended, Tune, Verdict, checked
from poisonbench.core.delivery import Delivered, delivered
from poisonbench.core.delta import Delta
from poisonbench.core.errors import ConfigError
from poisonbench.core.finite import finite, finite_state
from poisonbench.core.goals import NoGoal, Probe
from poisonbench.core.learner import Combine, Learner, PlainStep, Step, Trained, Victim
from poisonbench.core.manifest import NOTHING_SIGNED, Manifest
from poisonbench.core.oversight import Refereed
from poisonbench.core.proof import needs
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.runner.experiment import Experiment
from poisonbench.storage.store import Store

SYSTEM = "system"  # this salt is random and never written
OPEN = ("public", "surrogate", "targets", "poison")  # streams that the salt does not change: they are not the defender's


@dataclass(frozen=True, eq=False, kw_only=True)
class Repaired:
    """A repair as the store keeps it; `trained` is None if the victim was not changed."""

    trained: Trained | None
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """The stages of one experiment, with the store. A trial is one independent (target, poison, victim) triple, numbered from 0."""

    experiment: Experiment
    store: Store
    since: int = 0  # number of visits of the store before this run

    @cached_property
    def root(self) -> Key:
        """The root of all random streams of the run."""
        return Key.root(self.experiment.seed)

    @cached_property
    def secret(self) -> Key:
        """The root of the defender's streams; without a salt, the root of the run."""
        salt = self.experiment.salt
        if salt is None:
            return self.root
        return Key(secrets.token_hex(32)) if salt == SYSTEM else self.root.child(f"salt/{salt}")

    def filed(self, stage: str) -> bool:
        """Return whether a stage may write its values to files; with `salt=system` the stages of the defender may not."""
        return self.experiment.salt != SYSTEM or stage.partition("/")[0] in OPEN

    def stream(self, stage: str) -> Key:
        """Return the random stream of a stage, such as "fit/trial 1"."""
        return (self.root if stage.partition("/")[0] in OPEN else self.secret).child(stage)

    @cached_property
    def learner(self) -> Learner:
        """The recipe of the victims, fitted on public rows if it has a part that learns from them."""
        return self._rooted(self.experiment.learner)

    @cached_property
    def surrogate(self) -> Learner:
        """The attacker's recipe; an extractor fitted on public rows is public, so equal recipes share it."""
        return self._rooted(self.experiment.threat.surrogate)

    def _rooted(self, learner: Learner) -> Learner:
        return learner.with_public(self.experiment.task.public, lambda other, data: self.fit(other, data, self.honest, stage="public", label="on public rows"))

    @cached_property
    def attacked(self) -> Learner:
        """The learner of the undefended victim; the referee checks each step of an attacker who runs the training."""
        return self._rooted(under_attack(self.experiment, self.experiment.learner))

    @cached_property
    def defended(self) -> Learner:
        """The learner of the defended victim."""
        return self._rooted(self.experiment.defense.train(under_attack(self.experiment, self.experiment.learner)))

    @cached_property
    def malicious(self) -> Tensor:
        """(malicious,) int64, the clients that the attacker controls."""
        return self.experiment.threat.malicious(self.experiment.task.train, self.root.child("malicious"))

    @cached_property
    def honest(self) -> Combine:
        """How contributions are combined without an attack: their mean."""
        return self._combine(Honest(), Mean(), self.malicious[:0])

    def combine(self, aggregate: Aggregator) -> Combine:
        """Return how contributions are combined under attack, by the rule `aggregate`."""
        return self._combine(self.experiment.attack.update, aggregate, self.malicious)

    def _combine(self, craft: UpdateAttack, aggregate: Aggregator, malicious: Tensor) -> Combine:
        threat, task = self.experiment.threat, self.experiment.task
        return Combine(
            craft=craft,
            aggregate=aggregate,
            malicious=malicious,
            rounds=threat.rounds,
            omniscient=threat.omniscient,
            clean=task.train,
            trusted=task.trusted,
        )

    @cached_property
    def targets(self) -> Tensor:
        """(trials, targets) int64, the test rows that the attacker aims at."""
        self.experiment.task.check_test()
        return self.experiment.threat.aims(self.experiment.task.test, self.root.child("targets"))

    def fit(self, learner: Learner, data: Dataset, combine: Combine, *, stage: str = "fit", label: str = "") -> Victim:
        """Return a victim trained on these rows; the store returns one that was trained on the same rows from the same seed."""
        return self.fit_many(learner, [data], combine, stages=[stage], label=label)[0]

    def fit_many(self, learner: Learner, parts: Sequence[Dataset], combine: Combine, *, stages: Sequence[str], label: str) -> list[Victim]:
        """Return one victim for each part; those that are not in the store are trained together.

        Raises:
            Diverged: a trained state that is not finite; it is not stored, so what the store holds needs no second look.
        """
        rngs = [self.stream(stage) for stage in stages]

        def train(missing: Sequence[int]) -> list[Trained]:
            victims = learner.fit_many([parts[place] for place in missing], combine, [rngs[place] for place in missing])
            return [taken_apart(victim, f"victim {label or 'trained'} ({stages[place]})") for place, victim in zip(missing, victims, strict=True)]

        found = self.store.memo_many("fit", self.asked(learner, parts, combine, stages), train, label=label, filed=self.filed(stages[0]))
        return [learner.restore(trained, data, combine) for trained, data in zip(found, parts, strict=True)]

    def asked(self, learner: Learner, parts: Sequence[Dataset], combine: Combine, stages: Sequence[str]) -> list[tuple[object, ...]]:
        """Return everything that each victim depends on; its key in the store is a digest of this."""
        return [(learner, data, combine, self.stream(stage), learner.runtime) for data, stage in zip(parts, stages, strict=True)]

    def tuning(self, learner: Learner, stage: str) -> Tune:
        """Return a `Tune` that continues the training with the same recipe; its first draw has the seed of `stage`, and each later draw another one."""
        first = self.stream(stage).child("tune")

        def tune(victim: Victim | None, data: Dataset, *, epochs: int, draw: int = 0, step: Step | None = None) -> Victim:
            plain, rng = learner.with_epochs(epochs), first.child(str(draw)) if draw else first
            longer = plain if step is None else plain.with_step(step)
            parts = (longer, data, victim.state() if victim else None, rng, longer.runtime)

            def train() -> Trained:
                return taken_apart(longer.fit(data, self.honest, rng, victim), f"victim tuned ({stage})")

            return longer.restore(self.store.memo("tune", parts, train, filed=self.filed(stage)), data, self.honest)

        return tune

    def fitting(self, learner: Learner, combine: Combine, stage: str, label: str) -> Fit:
        """Return a `Fit` whose first draw has the seed of `stage`, and each later draw another seed."""

        def fit(data: Dataset, *, draw: int = 0) -> Victim:
            return self.fit(learner, data, combine, stage=f"{stage}/{draw}" if draw else stage, label=label)

        return fit

    def known(self, trial: int = 0) -> Known:
        """Return what the attacker knows; surrogates never share the seed of a victim."""
        threat, task = self.experiment.threat, self.experiment.task
        fit = self.fitting(self.surrogate, self.honest, "surrogate", "for the attacker")
        targets, tune = task.test.take(self.targets[trial]), self.tuning(self.surrogate, "surrogate")
        return threat.reveal(task, malicious=self.malicious, targets=targets, fit=fit, tune=tune)

    def strike(self, trial: int = 0) -> Delivered:
        """Run the attack, audit its rows, and return them as the defender receives them."""
        return delivered(self.experiment.task.train, self.struck(trial), self.stream(numbered("delivery", trial)))

    def received(self) -> Delivered:
        """Return the training rows without an attack of ours, as for an audit of a data set."""
        rows = self.experiment.task.train
        clean = Poisoned(data=rows, mask=torch.zeros(len(rows), dtype=torch.bool), goal=NoGoal(), manifest=NOTHING_SIGNED)
        return delivered(rows, clean, self.stream("delivery"))

    def struck(self, trial: int = 0) -> Poisoned:
        """Run the attack and audit its rows: the clean rows in their order, then the injected ones."""
        task, threat, attack = self.experiment.task, self.experiment.threat, self.experiment.attack
        known, rng = self.known(trial), self.root.child(numbered("poison", trial))
        writable = known.writable.clone()

        def poison() -> Delta:
            with left_alone("the attack", known.rows, known.targets, task.public):
                poisoned = attack.data.poison(known, rng)
            injected = poisoned.data.take(torch.arange(len(task.train), len(poisoned.data)))
            reached = torch.cat([writable, threat.reach.writable(injected, self.malicious)])
            audit(task.train, poisoned, threat.budget, reached, known.targets)
            return Delta.between(task.train, poisoned)

        parts = (attack.data, task.train, task.public, known.targets, threat, rng, threat.surrogate.runtime)
        return self.store.memo("poison", parts, poison).apply(task.train)

    def means(self, poisoned: Delivered, plugin: object, trial: int = 0) -> Means:
        """Return what the defender knows; the poison mask is part of it only for a plugin that declares that it needs it."""
        stage = numbered("fit", trial)
        fit = self.fitting(self.attacked, self.combine(Mean()), stage, "for the defender")
        asked = needs(plugin)
        truth = poisoned.kinds.poison if "truth" in asked else poisoned.kinds.poison[:0]
        manifest = poisoned.manifest if "manifest" in asked else NOTHING_SIGNED
        return Means(trusted=self.experiment.task.trusted, fit=fit, tune=self.tuning(self.learner, stage), truth=truth, manifest=manifest)

    def judge(self, poisoned: Delivered, trial: int = 0) -> Verdict | None:
        """Return the verdict of the filter on the rows; None without a filter."""
        sanitize, rng = self.experiment.defense.sanitize, self.stream(numbered("sanitize", trial))
        means = self.means(poisoned, sanitize, trial)
        known = (means.trusted, means.truth, self.combine(Mean()), self.stream(numbered("fit", trial)), rng, self.attacked.runtime)
        parts = (sanitize, self.attacked, poisoned.data, *known, *signed_lists(means))

        def judge() -> Verdict | None:
            with left_alone("the filter", poisoned.data, means.trusted):
                return checked(sanitize.judge(poisoned.data, means, rng), poisoned.data, sanitize)

        verdict = self.store.memo("judge", parts, judge, filed=self.filed("sanitize"))
        if verdict is not None and not verdict.keep.any():
            raise ConfigError("the filter removed every training row; lower what it expects, or the share that it removes")
        return verdict

    def repair(self, victim: Victim, verdict: Verdict | None, poisoned: Delivered, trial: int = 0) -> Mended:
        """Return the repaired victim, with the figures of the repair."""
        repair, rng = self.experiment.defense.repair, self.stream(numbered("repair", trial))
        means = self.means(poisoned, repair, trial)

        def mend() -> Repaired:
            mended = repair.repair(victim, verdict, means, rng)
            trained = None if mended.victim is victim else taken_apart(mended.victim, f"victim repaired ({numbered('repair', trial)})")
            return Repaired(trained=trained, figures=dict(mended.figures))

        parts = (repair, self.defended, victim.state(), verdict, means.trusted, means.truth, rng, self.defended.runtime, *signed_lists(means))
        repaired = self.store.memo("repair", parts, mend, filed=self.filed("repair"))
        rows, combine = poisoned.data if verdict is None else poisoned.data.take(verdict.keep), self.combine(self.experiment.defense.aggregate)
        mended = victim if repaired.trained is None else self.defended.restore(repaired.trained, rows, combine)
        return Mended(victim=mended, figures=repaired.figures)

    def scores(self, victim: Victim, rows: Dataset, label: str) -> Tensor:
        """Return the victim's (M, K) scores on test rows; computed once for each victim, set of inputs and way to ask.

        Raises:
            Diverged: a score that is not finite; it is not stored.
        """
        return self._scored(victim, rows.inputs, rows.ask, label)

    def probed(self, victim: Victim, probe: Probe, label: str) -> Tensor:
        """Return the victim's (M, K) scores on probed rows; see `scores`."""
        return self._scored(victim, probe.inputs, probe.asked(self.experiment.task.test), label)

    def _scored(self, victim: Victim, inputs: Tensor, ask: Scores, label: str) -> Tensor:
        rng = self.stream("ask")
        asked = (None,) if ask == SCORES else (ask, rng)  # scores of classes need no draws
        parts = (type(victim).__qualname__, self.defended, victim.state(), inputs, *asked, self.defended.runtime)

        def answer() -> Tensor:
            return finite(ask(victim, inputs, rng), f"scores {label}, by row and class")

        return self.store.memo("scores", parts, answer, label=label, filed=self.filed("scores"))

    def probe(self, poisoned: Delivered, trial: int = 0) -> Probe:
        """Return the probe of the attacker's goal, checked against the task."""
        with left_alone("the attack's goal", self.experiment.task.test):
            probe = poisoned.goal.probe(self.experiment.task.test)
        audit_probe(probe, self.experiment.task.test, self.targets[trial])
        return probe


def signed_lists(means: Means) -> tuple[Manifest, ...]:
    """Return the part of a key that the signed list is; empty for plugins that do not receive it, so that their keys stay as they are."""
    return () if means.manifest is NOTHING_SIGNED else (means.manifest,)


def under_attack(experiment: Experiment, learner: Learner) -> Learner:
    """Return the recipe, with the attacker's step in it if the attacker runs the training."""
    step = experiment.attack.train
    return learner if step == PlainStep() else learner.with_step(Refereed(step=step, budget=experiment.threat.budget))


def taken_apart(victim: Victim, name: str) -> Trained:
    """Return a victim in the form that the store keeps.

    Raises:
        Diverged: its state is not finite; says of which victim, and in which tensor.
    """
    trained = Trained.of(victim)
    finite_state(trained.state, name)
    return trained


def numbered(stage: str, trial: int) -> str:
    """Return the name of a stage in a trial; for the first trial it is the plain name of the stage."""
    return f"{stage}/trial {trial}" if trial else stage
