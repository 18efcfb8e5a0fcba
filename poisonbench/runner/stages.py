"""The stages of one run: each asks the store first, with a seed that depends on the stage alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from poisonbench.core.attack import Attack, Honest, Poisoned, UpdateAttack
from poisonbench.core.audit import audit, audit_probe, left_alone
from poisonbench.core.data import Dataset, Task
from poisonbench.core.defense import Aggregator, Defense, Fit, Mean, Means, Mended, Tune, Verdict, checked
from poisonbench.core.delivery import Delivered, delivered
from poisonbench.core.delta import Delta
from poisonbench.core.electorate import Electorate
from poisonbench.core.errors import ConfigError
from poisonbench.core.finite import finite, finite_state
from poisonbench.core.goals import NoGoal, Probe
from poisonbench.core.learner import Combine, Learner, PlainStep, Trained, Victim
from poisonbench.core.oversight import Refereed
from poisonbench.core.proof import needs
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known, Threat
from poisonbench.runner import metrics
from poisonbench.storage.store import Store

SYSTEM = "system"  # the salt that nobody knows
OPEN = ("public", "surrogate", "targets", "poison")  # streams that have no secret of the defender's


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that a run depends on.

    Args:
        task: rows to train and test on.
        threat: what an attacker knows and may do.
        attack: what is done.
        defense: what is done against it.
        learner: the recipe of the victims.
        seed: root of every random stream.
        salt: mixed into the root of the defender's streams: of trainings, filters, repairs, screens and certificates. None: they come from the
            seed, so a run can be repeated, by the attacker too. "system": from the operating system's random numbers, which are never
            written; nothing that is trained under them can be repeated, or is shared with another run. torch's and numpy's
            generators take 63 bits of them for each stream and are no cryptographic ones. Any other text stands in the record and is no secret.
    """

    task: Task
    threat: Threat
    attack: Attack
    defense: Defense
    learner: Learner
    seed: int
    salt: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Repaired:
    """A repair as the store keeps it; nothing is kept of a victim that was left as it is."""

    trained: Trained | None
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One experiment and the store. A trial is one independent (target, poison, victim) triple, numbered from 0."""

    experiment: Experiment
    store: Store
    since: int = 0  # visits of the store before this run

    @cached_property
    def root(self) -> Key:
        """The stream of the whole run."""
        return Key.root(self.experiment.seed)

    @cached_property
    def secret(self) -> Key:
        """The root of the defender's streams; that of the run, unless there is a salt."""
        salt = self.experiment.salt
        if salt is None:
            return self.root
        return Key(secrets.token_hex(32)) if salt == SYSTEM else self.root.child(f"salt/{salt}")

    def filed(self, stage: str) -> bool:
        """Tell whether what a stage makes may lie in files: nothing that was drawn from a secret of the system may."""
        return self.experiment.salt != SYSTEM or stage.partition("/")[0] in OPEN

    def stream(self, stage: str) -> Key:
        """Return the random stream of a stage, such as "fit/trial 1"."""
        return (self.root if stage.partition("/")[0] in OPEN else self.secret).child(stage)

    @cached_property
    def learner(self) -> Learner:
        """The recipe, with what it learns from public rows."""
        return self._rooted(self.experiment.learner)

    @cached_property
    def surrogate(self) -> Learner:
        """The attacker's recipe; an extractor fitted on public rows is public, so an equal recipe shares it."""
        return self._rooted(self.experiment.threat.surrogate)

    def _rooted(self, learner: Learner) -> Learner:
        return learner.with_public(self.experiment.task.public, lambda other, data: self.fit(other, data, self.honest, stage="public", label="on public rows"))

    @cached_property
    def attacked(self) -> Learner:
        """The learner of the undefended victim; an attacker who runs the training does so under the referee's eye."""
        return self._rooted(under_attack(self.experiment, self.experiment.learner))

    @cached_property
    def defended(self) -> Learner:
        """The learner of the defended victim."""
        return self._rooted(self.experiment.defense.train(under_attack(self.experiment, self.experiment.learner)))

    @cached_property
    def malicious(self) -> Tensor:
        """The contributors under the attacker's hand."""
        return self.experiment.threat.malicious(self.experiment.task.train, self.root.child("malicious"))

    @cached_property
    def honest(self) -> Combine:
        """Contributions as they come, averaged."""
        return self._combine(Honest(), Mean(), self.malicious[:0])

    def combine(self, aggregate: Aggregator) -> Combine:
        """Contributions under attack, combined by `aggregate`."""
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
        """(trials,) int64, the test rows that the attacker aims at."""
        self.experiment.task.check_test()
        return self.experiment.threat.aims(self.experiment.task.test, self.root.child("targets"))

    def fit(self, learner: Learner, data: Dataset, combine: Combine, *, stage: str = "fit", label: str = "") -> Victim:
        """Train, or find the victim that was trained on the same rows from the same seed."""
        return self.fit_many(learner, [data], combine, stages=[stage], label=label)[0]

    def fit_many(self, learner: Learner, parts: Sequence[Dataset], combine: Combine, *, stages: Sequence[str], label: str) -> list[Victim]:
        """Train one victim a part, those that the store does not hold together.

        Raises:
            Diverged: a trained state that is not finite; it is not stored, so what the store holds needs no second look.
        """
        rngs = [self.stream(stage) for stage in stages]

        def train(missing: Sequence[int]) -> list[Trained]:
            victims = learner.fit_many([parts[place] for place in missing], combine, [rngs[place] for place in missing])
            return [taken_apart(victim, f"victim {label or 'trained'} ({stages[place]})") for place, victim in zip(missing, victims, strict=True)]

        found = self.store.memo_many("fit", self.asked(learner, parts, combine, stages), train, label=label, filed=self.filed(stages[0]))
        return [learner.restore(trained, data) for trained, data in zip(found, parts, strict=True)]

    def asked(self, learner: Learner, parts: Sequence[Dataset], combine: Combine, stages: Sequence[str]) -> list[tuple[object, ...]]:
        """Return all that each victim depends on: its key in the store is a digest of it."""
        return [(learner, data, combine, self.stream(stage), learner.runtime) for data, stage in zip(parts, stages, strict=True)]

    def tuning(self, learner: Learner, stage: str) -> Tune:
        """Return a `Tune` that trains on with the same recipe, from the seed of `stage`."""
        rng = self.stream(stage).child("tune")

        def tune(victim: Victim | None, data: Dataset, *, epochs: int) -> Victim:
            longer = learner.with_epochs(epochs)
            parts = (longer, data, victim.state() if victim else None, rng, longer.runtime)

            def train() -> Trained:
                return taken_apart(longer.fit(data, self.honest, rng, victim), f"victim tuned ({stage})")

            return longer.restore(self.store.memo("tune", parts, train, filed=self.filed(stage)), data)

        return tune

    def fitting(self, learner: Learner, combine: Combine, stage: str, label: str) -> Fit:
        """Return a `Fit` whose first draw has the seed of `stage`, and every other one its own."""

        def fit(data: Dataset, *, draw: int = 0) -> Victim:
            return self.fit(learner, data, combine, stage=f"{stage}/{draw}" if draw else stage, label=label)

        return fit

    def known(self, trial: int = 0) -> Known:
        """Return the attacker's world; surrogates have a seed stream of their own, never the victim's."""
        threat, task = self.experiment.threat, self.experiment.task
        fit = self.fitting(self.surrogate, self.honest, "surrogate", "for the attacker")
        targets, tune = task.test.take(self.targets[trial : trial + 1]), self.tuning(self.surrogate, "surrogate")
        return threat.reveal(task, malicious=self.malicious, targets=targets, fit=fit, tune=tune)

    def strike(self, trial: int = 0) -> Delivered:
        """Let the attacker act, audit what was done, and return it as the defender receives it."""
        return delivered(self.experiment.task.train, self.struck(trial), self.stream(numbered("delivery", trial)))

    def received(self) -> Delivered:
        """Return the training rows as they are, which an attacker may have reached before anybody here saw them; nobody aims at a test row."""
        rows = self.experiment.task.train
        clean = Poisoned(data=rows, mask=torch.zeros(len(rows), dtype=torch.bool), goal=NoGoal())
        return delivered(rows, clean, self.stream("delivery"))

    def struck(self, trial: int = 0) -> Poisoned:
        """Let the attacker act, then audit what was done: the clean rows in their order, injected ones behind them."""
        task, threat, attack = self.experiment.task, self.experiment.threat, self.experiment.attack
        known, rng = self.known(trial), self.root.child(numbered("poison", trial))
        writable = known.writable.clone()

        def poison() -> Delta:
            with left_alone("the attack", known.rows, known.targets, task.public):
                poisoned = attack.data.poison(known, rng)
            audit(task.train, poisoned, threat.budget, writable, known.targets)
            return Delta.between(task.train, poisoned)

        parts = (attack.data, task.train, task.public, known.targets, threat, rng, threat.surrogate.runtime)
        return self.store.memo("poison", parts, poison).apply(task.train)

    def means(self, poisoned: Delivered, plugin: object, trial: int = 0) -> Means:
        """Return the defender's world; the truth is in it only for a plugin that declares to need it."""
        stage = numbered("fit", trial)
        fit = self.fitting(self.attacked, self.combine(Mean()), stage, "for the defender")
        truth = poisoned.kinds.poison if "truth" in needs(plugin) else poisoned.kinds.poison[:0]
        return Means(trusted=self.experiment.task.trusted, fit=fit, tune=self.tuning(self.learner, stage), truth=truth)

    def judge(self, poisoned: Delivered, trial: int = 0) -> Verdict | None:
        """Let the sanitizer judge the rows."""
        sanitize, rng = self.experiment.defense.sanitize, self.stream(numbered("sanitize", trial))
        means = self.means(poisoned, sanitize, trial)
        told = (means.trusted, means.truth, self.combine(Mean()), self.stream(numbered("fit", trial)), rng, self.attacked.runtime)
        parts = (sanitize, self.attacked, poisoned.data, *told)

        def judge() -> Verdict | None:
            with left_alone("the filter", poisoned.data, means.trusted):
                return checked(sanitize.judge(poisoned.data, means, rng), poisoned.data, sanitize)

        verdict = self.store.memo("judge", parts, judge, filed=self.filed("sanitize"))
        if verdict is not None and not verdict.keep.any():
            raise ConfigError("the filter removed every training row; lower what it expects, or the share that it removes")
        return verdict

    def repair(self, victim: Victim, verdict: Verdict | None, poisoned: Delivered, trial: int = 0) -> Mended:
        """Let the repairer mend the victim."""
        repair, rng = self.experiment.defense.repair, self.stream(numbered("repair", trial))
        means = self.means(poisoned, repair, trial)

        def mend() -> Repaired:
            mended = repair.repair(victim, verdict, means, rng)
            trained = None if mended.victim is victim else taken_apart(mended.victim, f"victim repaired ({numbered('repair', trial)})")
            return Repaired(trained=trained, figures=dict(mended.figures))

        parts = (repair, self.defended, victim.state(), verdict, means.trusted, means.truth, rng, self.defended.runtime)
        repaired = self.store.memo("repair", parts, mend, filed=self.filed("repair"))
        mended = victim if repaired.trained is None else self.defended.restore(repaired.trained, poisoned.data)
        return Mended(victim=mended, figures=repaired.figures)

    def scores(self, victim: Victim, inputs: Tensor, answers: Tensor | None, label: str) -> Tensor:
        """Ask the victim, once for each set of inputs.

        Raises:
            Diverged: a score that is not finite; it is not stored.
        """
        parts = (type(victim).__qualname__, self.defended, victim.state(), inputs, answers, self.defended.runtime)
        return self.store.memo(
            "scores", parts, lambda: finite(victim.scores(inputs, answers), f"scores {label}, by row and class"), label=label, filed=self.filed("scores")
        )

    def probe(self, poisoned: Delivered, trial: int = 0) -> Probe:
        """Return what the goal asks victims, checked against the task."""
        with left_alone("the attack's goal", self.experiment.task.test):
            probe = poisoned.goal.probe(self.experiment.task.test)
        audit_probe(probe, self.experiment.task.test, self.targets[trial : trial + 1])
        return probe

    def measure(self, victim: Victim, probe: Probe, label: str) -> dict[str, float]:
        """Return C-Acc, ASR and R-Acc."""
        test, told = self.experiment.task.test, torch.ones(len(self.experiment.task.test), dtype=torch.bool)
        told[probe.targets] = False
        scores = self.scores(victim, test.inputs, None, label)
        figures = {"c_acc": metrics.accuracy(scores[told], test.labels[told])}
        if len(probe):
            figures |= metrics.success(self.scores(victim, probe.inputs, probe.answers, f"{label} probe"), probe)
        return figures

    def history(self, learner: Learner, victim: Victim, probe: Probe) -> dict[str, list[float]]:
        """Return C-Acc, and ASR where there is a probe, after each round; empty where a learner has no rounds.

        Where a history is sparse, "round" says after which rounds, counted from 1.

        Raises:
            Diverged: a kept model whose scores are not finite.
        """
        test, curves = self.experiment.task.test, dict[str, list[float]]()
        every, last = int(str(victim.facts.get("history_every", 1))), int(str(victim.facts.get("rounds", 0)))
        if every > 1:
            curves["round"] = [float(last - every * back) for back in reversed(range(len(victim.history)))]
        for number, state in enumerate(victim.history):
            then, where = learner.restore(Trained(state=state, facts={}), test), f"scores of the kept model {number + 1} of {len(victim.history)}"
            curves.setdefault("c_acc", []).append(metrics.accuracy(finite(then.scores(test.inputs), where), test.labels))
            if len(probe):
                curves.setdefault("asr", []).append(metrics.success(finite(then.scores(probe.inputs, probe.answers), where), probe)["asr"])
        return curves

    def screen(self, victim: Victim, poisoned: Delivered, probe: Probe, trial: int = 0) -> dict[str, object]:
        """Let the screen judge trusted, test and probed inputs."""
        screen, task = self.experiment.defense.screen, self.experiment.task
        inputs = {"trusted": task.trusted.inputs, "test": task.test.inputs, "probe": probe.inputs}
        means, suspicion = self.means(poisoned, screen, trial), dict[str, Tensor]()
        for name, rows in inputs.items():
            judge = partial(screen.suspicion, victim, rows, means, self.stream(f"{numbered('screen', trial)}/{name}"))
            judged = judge() if len(rows) else torch.zeros(0)
            if judged is None:
                return {}
            suspicion[name] = finite(judged, f"suspicion of the {name} inputs")
        scores = {
            "test": self.scores(victim, task.test.inputs, None, "screened"),
            "probe": self.scores(victim, probe.inputs, probe.answers, "screened probe") if len(probe) else torch.zeros(0),
        }
        return {"screen": metrics.screening(scores, suspicion, task.test, probe)}

    def certify(self, victim: Victim, poisoned: Delivered) -> dict[str, object]:
        """Let the certifier prove what it can, and say what the attack changed, so that both can be compared in one unit."""
        certify, test = self.experiment.defense.certify, self.experiment.task.test
        radii, together = certify.certify(victim, test), certify.together(victim, test)
        figures = {} if radii is None else {**metrics.certified(radii), "radius_unit": certify.unit}
        if figures and (changes := poisoned.changes(self.experiment.task.train)):
            figures["changed_rows"] = changes
        if figures and isinstance(victim, Electorate):
            figures["member_c_acc"] = metrics.member_accuracy(victim.tally(test.inputs).answers_MR, test.labels)
        return figures | ({"collective": {str(changes): share for changes, share in together.items()}} if together else {})


def under_attack(experiment: Experiment, learner: Learner) -> Learner:
    """Return the recipe with what an attacker who runs the training does in each step, if there is one."""
    step = experiment.attack.train
    return learner if step == PlainStep() else learner.with_step(Refereed(step=step, budget=experiment.threat.budget))


def taken_apart(victim: Victim, name: str) -> Trained:
    """Return a victim as the store keeps it.

    Raises:
        Diverged: its state is not finite; says of which victim, and in which tensor.
    """
    trained = Trained.of(victim)
    finite_state(trained.state, name)
    return trained


def numbered(stage: str, trial: int) -> str:
    """Return the name of a stage in a trial; the first trial has the plain name."""
    return f"{stage}/trial {trial}" if trial else stage
