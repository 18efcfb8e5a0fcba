"""The line, with a toy plugin in every slot."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import pytest
import torch

from poisonbench.core.attack import Attack, Crafted, Poisoned, Round, Untouched
from poisonbench.core.audit import audit_round
from poisonbench.core.defense import Defense, Mean, Mended, NoCertificate, Server, Verdict
from poisonbench.core.errors import BudgetError, ConfigError, DataError, Diverged
from poisonbench.core.goals import NoGoal
from poisonbench.core.learner import Combine, Learner, PlainStep, Trained, fit_each
from poisonbench.core.proof import Tolerance
from poisonbench.core.rng import Key
from poisonbench.core.threat import Budget, Threat
from poisonbench.nets.small import Linear
from poisonbench.runner.measure import measure
from poisonbench.runner.pipeline import folded, run
from poisonbench.runner.spec import filled, name_of, spec
from poisonbench.runner.stages import Line
from poisonbench.stats import clopper_pearson
from poisonbench.storage.record import read
from poisonbench.sweep.cell import FAILED, computed
from tests.conftest import tiny_words


def made(store, stage: str) -> int:
    return sum(visit.made for visit in store.visits if visit.key.startswith(f"{stage}-"))


def test_a_backdoor_works_undefended_and_the_record_tells_all(tiny, store):
    record = run(tiny("attack=backdoor", "threat.budget.rate=0.2"), store)
    assert record.status == "done"
    assert record.undefended["asr"] > 0.9
    assert record.baseline["asr"] < 0.3
    assert record.undefended["c_acc"] > 0.9
    assert record.counts == {
        "train": 380,
        "trusted": 20,
        "poisoned": 76,
        "poisoned_kept": 76,
        "exposures": 304,
        "test": 200,
        "probe": 150,
        "classes": 4,
        "hits": record.counts["hits"],
    }
    assert record.counts["hits"] / 150 == record.metrics["asr"]
    assert record.spec["attack"]["name"] == "badnets"
    assert record.facts == {"epochs": 4, "steps": 48}
    assert {"device", "threads", "torch", "data_digest", "commit", "versions"} <= record.provenance.keys()


def test_without_an_attack_its_figures_are_absent(tiny, store):
    record = run(tiny(), store)
    assert set(record.metrics) == {"c_acc"}
    assert "hits" not in record.counts
    assert made(store, "fit") == 1  # baseline, undefended and defended are one victim


def test_victims_are_trained_once_for_all_defenses_and_seeds_apart(tiny, store):
    for defense in ("none", "spectral", "random_drop"):
        run(tiny("attack=backdoor", f"defense={defense}"), store)
    assert made(store, "fit") == 4  # baseline, undefended, two defended
    run(tiny("attack=backdoor", "seed=1"), store)
    assert made(store, "fit") == 6


def test_a_second_run_computes_nothing_and_gives_the_same_digest(tiny, store):
    words = ("attack=backdoor", "defense=spectral")
    first = run(tiny(*words), store)
    before = len([visit for visit in store.visits if visit.made])
    second = run(tiny(*words), store)
    assert len([visit for visit in store.visits if visit.made]) == before
    assert first.result_digest == second.result_digest


def test_a_fresh_store_gives_the_same_digest(tiny, store, tmp_path):
    from poisonbench.storage.store import Store

    experiment = tiny("attack=backdoor", "defense=spectral")
    assert run(experiment, store).result_digest == run(experiment, Store(tmp_path / "another")).result_digest


def test_every_defense_meets_the_same_poison_and_every_seed_another(tiny, store):
    keys = [run(tiny("attack=backdoor", *words), store).keys["poison"] for words in (("defense=none",), ("defense=spectral",), ("seed=1",))]
    assert keys[0] == keys[1] != keys[2]


@dataclass(frozen=True, kw_only=True)
class Cheat:
    """Poison twice what is allowed and mark none of it."""

    def poison(self, known, rng):
        rows = torch.arange(2 * known.budget.rows(len(known.rows)))
        data = known.rows.edit(rows, labels=1 - known.rows.labels[rows].clamp_max(1))
        return Poisoned(data=data, mask=torch.zeros(len(data), dtype=torch.bool), goal=NoGoal())


def test_an_attack_that_cheats_is_caught(tiny, store):
    with pytest.raises(BudgetError, match="outside the mask"):
        run(tiny(attack=Attack(data=Cheat())), store)


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Train two surrogates and a tuned one, then poison nothing."""

    def poison(self, known, rng):
        one, other = known.fit(known.rows), known.fit(known.rows, draw=1)
        known.tune(one, known.rows, epochs=1)
        assert not torch.equal(one.scores(known.rows.inputs), other.scores(known.rows.inputs))
        return Poisoned(data=known.rows, mask=torch.zeros(len(known.rows), dtype=torch.bool), goal=NoGoal())


def test_attacker_and_defender_tune_from_different_seeds(tiny, store):
    experiment = tiny()
    line, data = Line(experiment=experiment, store=store), experiment.task.train
    poisoned = line.strike()
    victim = line.fit(experiment.learner, data, line.honest)
    mine = line.means(poisoned, None).tune(victim, data, epochs=1)
    theirs = line.known().tune(victim, data, epochs=1)
    assert any(not torch.equal(mine.state()[name], theirs.state()[name]) for name in mine.state())


def test_surrogates_never_share_the_victims_seed(tiny, store):
    run(tiny(attack=Attack(data=Surrogate())), store)
    assert made(store, "fit") == 3  # two surrogates and the victim, though all saw the same rows
    assert made(store, "tune") == 1


@dataclass(frozen=True, kw_only=True)
class Oracle:
    NEEDS: ClassVar[frozenset[str]] = frozenset({"truth"})

    def judge(self, data, means, rng):
        return Verdict(keep=~means.truth, suspicion=means.truth.float())


@dataclass(frozen=True, kw_only=True)
class Curious:
    """Claim the truth without declaring it."""

    def judge(self, data, means, rng):
        assert len(means.truth) == 0
        assert len(means.trusted) == 20
        return None


def test_the_truth_is_handed_only_to_those_who_declare_it(tiny, store):
    words = ("attack=backdoor", "threat.budget.rate=0.2")
    record = run(tiny(*words, defense=Defense(sanitize=Oracle())), store)
    assert (record.metrics["tpr"], record.metrics["fpr"]) == (1.0, 0.0)
    assert abs(record.metrics["asr"] - record.baseline["asr"]) < 0.1
    run(tiny(*words, defense=Defense(sanitize=Curious())), store)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Answers with numbers where a verdict holds booleans."""

    def judge(self, data, means, rng):
        return Verdict(keep=torch.ones(len(data), dtype=torch.int64), suspicion=torch.zeros(len(data)))


def test_a_verdict_of_another_form_is_refused_before_anything_is_removed_or_stored(tiny, store):
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"Numbers\.judge returned keep as torch\.int64"):
            run(tiny(defense=Defense(sanitize=Numbers())), store)
    assert not made(store, "judge")


@dataclass(frozen=True, kw_only=True)
class DropAll:
    def judge(self, data, means, rng):
        return Verdict(keep=torch.zeros(len(data), dtype=torch.bool), suspicion=torch.zeros(len(data)))


def test_a_filter_that_leaves_nothing_is_refused_in_words(tiny, store):
    with pytest.raises(ConfigError, match="removed every training row"):
        run(tiny(defense=Defense(sanitize=DropAll())), store)


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Repair by tuning on the trusted rows, after looking at the verdict."""

    def repair(self, victim, verdict, means, rng):
        assert verdict is None
        return Mended(victim=means.tune(victim, means.trusted, epochs=1))


@dataclass(frozen=True, kw_only=True)
class CornerScreen:
    """Suspect bright corners."""

    def suspicion(self, victim, inputs, means, rng):
        return inputs[:, 0, -3:, -3:].float().mean((1, 2))


@dataclass(frozen=True, kw_only=True)
class Constant(NoCertificate):
    TOLERATES: ClassVar[Tolerance] = MappingProxyType({"repair": ("the model",), "screen": ("the model",)})

    def certify(self, victim, test):
        return torch.where(victim.scores(test.inputs).argmax(1) == test.labels, 2, -1)


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A learner that has a place for certificates, and that these are about."""

    MECHANISM: ClassVar[bool] = True
    inner: Learner

    def with_public(self, public, fit):
        return dataclasses.replace(self, inner=self.inner.with_public(public, fit))

    @property
    def stages(self):
        return self.inner.stages | {"defense.certify"}

    def __getattr__(self, name):
        return getattr(self.inner, name)


@dataclass(frozen=True, kw_only=True)
class Certifying:
    def __call__(self, learner):
        return Certified(inner=learner)


def test_repair_screen_and_certify_reach_the_record(tiny, store):
    defense = Defense(train=Certifying(), repair=Retrain(), screen=CornerScreen(), certify=Constant())
    record = run(tiny("attack=backdoor", "threat.budget.rate=0.2", defense=defense), store)
    assert record.facts["epochs"] == 1
    assert record.metrics["screen"]["auroc"] > 0.95
    assert record.metrics["screen"]["asr"] < 0.05
    assert record.metrics["certified"] == [record.metrics["c_acc"]] * 3 + [0.0]
    assert record.metrics["median_radius"] == 2


def test_a_slot_that_the_learner_cannot_honour_is_skipped_before_any_compute(tiny, store):
    record = run(tiny("attack=backdoor", defense=Defense(certify=Constant())), store)
    assert (record.status, record.reason) == ("skipped", "Central has no place for defense.certify")
    assert not store.visits


@dataclass(frozen=True, kw_only=True)
class Outside(PlainStep):
    """The attacker runs the training, and does nothing in it."""

    VERSION: ClassVar[int] = 1


def test_where_the_attacker_trains_filters_are_skipped_and_repairs_act(tiny, store):
    attack = dataclasses.replace(tiny("attack=backdoor").attack, train=Outside())
    assert "the attacker runs the training" in run(tiny("defense=spectral", attack=attack), store).reason
    assert run(tiny(attack=attack, defense=Defense(repair=Retrain())), store).status == "done"


def test_a_loss_that_is_not_finite_is_raised_by_the_line(tiny, store):
    with pytest.raises(Diverged):
        run(tiny("learner.lr=1e9"), store)


@dataclass(frozen=True, kw_only=True)
class Ruin:
    """A training whose last act puts NaN into the second of the victim's tensors, or a huge number, so that scores overflow."""

    value: float

    def __call__(self, learner):
        return learner.with_step(RuinStep(value=self.value))


@dataclass(frozen=True, kw_only=True)
class RuinStep(PlainStep):
    value: float

    def finish(self, module, plan):
        with torch.no_grad():
            list(module.parameters())[-1][0] = self.value
            list(module.parameters())[-2][0] = self.value
        return {}


def test_a_state_that_is_not_finite_names_the_victim_and_the_tensor_and_is_not_stored(tiny, store):
    experiment = tiny(defense=Defense(train=Ruin(value=float("nan"))))
    with pytest.raises(Diverged, match=r"victim defended \(fit\), tensor net\.[a-z.]+weight: \d+ of \d+ values are not finite, the first at \[0, 0\]"):
        run(experiment, store)
    with pytest.raises(Diverged, match="victim defended"):  # it is not found in the store
        run(experiment, store)


def test_scores_that_are_not_finite_name_the_victim(tiny, store):
    with pytest.raises(Diverged, match=r"scores defended, by row and class: \d+ of 800 values are not finite, the first at \[\d+, 0\]"):
        run(tiny(defense=Defense(train=Ruin(value=3e38))), store)


@dataclass(frozen=True, kw_only=True)
class RuinRepair:
    """A repair that breaks the victim."""

    def repair(self, victim, verdict, means, rng):
        state = {name: value * torch.nan if value.is_floating_point() else value for name, value in victim.state().items()}
        return Mended(victim=victim.become(Trained(state=state, facts={})))


def test_a_repair_that_leaves_values_that_are_not_finite_is_named(tiny, store):
    with pytest.raises(Diverged, match="victim repaired"):
        run(tiny(defense=Defense(repair=RuinRepair())), store)


@dataclass(frozen=True, kw_only=True)
class RuinScreen:
    """A screen that suspects NaN."""

    def suspicion(self, victim, inputs, means, rng):
        return torch.full((len(inputs),), torch.nan)


def test_a_suspicion_that_is_not_finite_is_named(tiny, store):
    with pytest.raises(Diverged, match="suspicion of the trusted inputs"):
        run(tiny(defense=Defense(screen=RuinScreen())), store)


def test_the_command_line_keeps_a_failed_record_that_says_where(tmp_path):
    words = ("attack=federated", "attack.update.boost=1e25", "threat.rounds=[3,4]", f"results_dir={tmp_path}")
    cell = computed(tiny_words(*words))
    assert cell.code == FAILED
    assert read(cell.path).status == "failed"
    assert read(cell.path).reason.startswith("Diverged: scores undefended, by row and class: 800 of 800 values are not finite")


@dataclass(frozen=True, kw_only=True)
class ToyFederated:
    """Each owner trains alone, the server combines the states: enough to walk the slots of federated rounds."""

    inner: Learner

    @property
    def stages(self):
        return frozenset({"attack.data", "attack.update", "defense.aggregate"})

    @property
    def runtime(self):
        return self.inner.runtime

    def check(self, data, combine):
        self.inner.check(data, combine)

    def with_public(self, public, fit):
        return self

    def fit(self, data, combine: Combine, rng: Key, start=None):
        owners = data.owners.unique()
        victims = self.inner.fit_many([data.take(data.owners == owner) for owner in owners], combine, [rng] * len(owners))
        names = [name for name, value in victims[0].state().items() if value.dtype == torch.float32]
        updates = torch.stack([torch.cat([victim.state()[name].flatten() for name in names]) for victim in victims])
        malicious = torch.isin(owners, combine.malicious)
        round_ = Round(updates=updates, visible=malicious, malicious=malicious, state=torch.zeros(updates.shape[1]), index=0, eta=1.0)
        crafted = combine.craft.craft(round_, rng)
        audit_round(round_, crafted)
        server = Server(round=0, state=round_.state, malicious=int(malicious.sum()), reference=lambda: updates[-1])
        together, state, at = combine.aggregate(crafted.updates, server), dict(victims[0].state()), 0
        for name in names:
            state[name] = together[at : at + state[name].numel()].view_as(state[name])
            at += state[name].numel()
        return self.inner.restore(Trained(state=state, facts=victims[0].facts), data, combine)

    def fit_many(self, parts: Sequence, combine, rngs):
        return fit_each(self, parts, combine, rngs)

    def with_step(self, step):
        return dataclasses.replace(self, inner=self.inner.with_step(step))

    def with_epochs(self, epochs):
        return dataclasses.replace(self, inner=self.inner.with_epochs(epochs))

    def restore(self, trained, like, combine):
        return self.inner.restore(trained, like, combine)


@dataclass(frozen=True, kw_only=True)
class Garbage:
    def craft(self, round: Round, rng: Key) -> Crafted:
        updates = round.updates.clone()
        updates[round.malicious] = -1000.0
        return Crafted(updates=updates)


@dataclass(frozen=True, kw_only=True)
class Median(Mean):
    def __call__(self, rows_RP, server):
        return rows_RP.median(0).values


def test_updates_are_crafted_audited_and_aggregated(tiny, store):
    task, learner = tiny().task, dataclasses.replace(tiny("learner.epochs=8").learner, net=Linear(norm="none"))
    owned = dataclasses.replace(task, train=task.train.edit(torch.arange(380), owners=torch.arange(380) // 76))
    learner = ToyFederated(inner=learner)
    threat = Threat(budget=Budget(rate=0.05, clients=0.2), surrogate=learner)
    fields = {"task": owned, "learner": learner, "threat": threat, "attack": Attack(update=Garbage())}
    experiment = tiny(**fields)
    broken = run(experiment, store)
    saved = run(dataclasses.replace(experiment, defense=Defense(aggregate=Median())), store)
    assert broken.baseline["c_acc"] > 0.9
    assert broken.metrics["c_acc"] < 0.5
    assert saved.metrics["c_acc"] > 0.9
    assert saved.undefended == broken.undefended
    assert run(dataclasses.replace(experiment, defense=Defense(sanitize=Oracle())), store).status == "skipped"


def test_plans_are_named_by_their_modules(tiny):
    assert name_of(Attack()) == "none"
    assert name_of(tiny("attack=backdoor").attack) == "badnets"
    both = dataclasses.replace(tiny("defense=spectral").defense, repair=Retrain())
    assert name_of(both) == "spectral+test_pipeline"
    assert name_of(tiny("defense=adversarial_training").defense) == "adversarial_training"  # inside the engine's own wrap
    assert name_of(tiny("attack=alie").attack) == "alie"  # beside the engine's own null object
    assert filled("defense", both) == {"defense.sanitize", "defense.repair"}


TARGETED = ("attack=label_flip_targeted", "threat.trials=4", "threat.budget.rate=0.1")


def test_trials_are_independent_and_their_success_is_a_proportion(tiny, store):
    experiment = tiny(*TARGETED)
    line = Line(experiment=experiment, store=store)
    struck = [line.strike(trial) for trial in range(4)]
    assert len({int(poisoned.goal.ids[0]) for poisoned in struck}) == 4
    assert len({poisoned.data.digest for poisoned in struck}) == 4
    record = run(experiment, store)
    assert record.counts["trials"] == record.counts["probe"] == 4
    assert record.counts["hits"] == round(4 * record.metrics["asr"])
    assert record.metrics["asr_interval"] == list(clopper_pearson(record.counts["hits"], 4))
    assert record.baseline["asr"] <= record.undefended["asr"]


def test_more_trials_train_only_the_new_victims(tiny, store):
    run(tiny(*TARGETED), store)
    before = made(store, "fit")
    run(tiny(*TARGETED, "threat.trials=6"), store)
    # the poisons depend on the threat, but equal rows give equal keys: two victims more
    assert made(store, "fit") == before + 2


def test_targets_are_left_out_of_clean_accuracy(tiny, store):
    experiment = tiny(*TARGETED, "threat.trials=1")
    line = Line(experiment=experiment, store=store)
    poisoned = line.strike()
    probe = poisoned.goal.probe(experiment.task.test)
    victim = line.fit(line.learner, poisoned.data, line.honest)
    right = victim.scores(experiment.task.test.inputs).argmax(1) == experiment.task.test.labels
    right[probe.targets] = False
    assert measure(line, victim, probe, "x")["c_acc"] == int(right.sum()) / 199


def test_degrade_reports_what_was_lost_and_no_success_rate(tiny, store):
    record = run(tiny("attack=availability", "threat.budget.rate=0.9"), store)
    assert record.metrics["goal"]["c_acc_lost"] == pytest.approx(record.baseline["c_acc"] - record.metrics["c_acc"])
    assert "asr" not in record.metrics


def test_a_victim_that_is_left_as_it_is_costs_no_second_file(tiny, store):
    run(tiny("attack=backdoor"), store)
    (repaired,) = store.root.glob("repair-*.safetensors")
    assert repaired.stat().st_size < 1000


def test_a_nested_filter_may_need_the_truth(tiny, store):
    record = run(tiny("attack=backdoor", "defense=random_drop", "defense@defense.sanitize.like=oracle", "threat.budget.rate=0.2"), store)
    assert record.metrics["removed"] == record.counts["poisoned"]


@pytest.mark.parametrize("words", [(), ("attack=backdoor",), ("defense=spectral",)])
def test_a_run_without_test_rows_is_refused_before_anything_is_computed(tiny, store, words):
    experiment = tiny(*words)
    experiment = dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, test=experiment.task.test.take(torch.arange(0))))
    asked = len(store.visits)
    for measured in (lambda: run(experiment, store), Line(experiment=experiment, store=store).strike):
        with pytest.raises(DataError, match=r"blobs has no test rows, .*; add some .*, or run `audit`"):
            measured()
    assert len(store.visits) == asked


def test_targets_of_one_class_are_those_of_all_classes_without_the_others(tiny, store):
    anything, two = tiny(*TARGETED, "threat.trials=200"), tiny(*TARGETED, "threat.target_class=2")
    labels = anything.task.test.labels
    order = Line(experiment=anything, store=store).targets[:, 0]
    assert Line(experiment=two, store=store).targets[:, 0].tolist() == order[labels[order] == 2][:4].tolist()
    with pytest.raises(ConfigError, match=r"50 test rows with the label threat\.target_class=2"):
        _ = Line(experiment=tiny(*TARGETED, "threat.target_class=2", "threat.trials=51"), store=store).targets


def test_a_threat_without_a_target_class_is_written_as_before(tiny):
    free, bound = (spec(tiny(*words))["threat"] for words in ((), ("threat.target_class=2",)))
    assert "target_class" not in free
    assert bound == free | {"target_class": 2}


def test_more_trials_than_test_rows_are_refused(tiny, store):
    with pytest.raises(ConfigError, match="200 test rows"):
        run(tiny(*TARGETED, "threat.trials=201"), store)


def test_texts_of_several_trials_are_kept():
    told = folded([{"radius_unit": "flipped labels", "c_acc": 1.0}, {"radius_unit": "flipped labels", "c_acc": 0.5}])
    assert told == {"radius_unit": "flipped labels", "c_acc": 0.75}
    assert folded([{"unit": "b"}, {"unit": "a"}]) == {"unit": "a or b"}


@dataclass(frozen=True, kw_only=True)
class EarlierNet:
    """A network of version 0.2."""

    VERSION: ClassVar[int] = 1

    def build(self, shape, num_classes):
        raise AssertionError("it is not built")


@dataclass(frozen=True, kw_only=True)
class EarlierGoal(NoGoal):
    """A goal of version 0.2."""

    def measure(self, victim):
        raise AssertionError("it is not called")


def test_plugins_of_an_earlier_version_are_named_in_one_sentence(tiny, store):
    experiment = tiny()
    net = dataclasses.replace(experiment, learner=dataclasses.replace(experiment.learner, net=EarlierNet()))
    with pytest.raises(
        ConfigError, match=r"EarlierNet was written for another version: its build takes \(shape, num_classes\), this version calls build\(like\)"
    ):
        run(net, store)
    goal = dataclasses.replace(experiment, attack=Attack(data=Untouched(goal=EarlierGoal())))
    with pytest.raises(ConfigError, match=r"EarlierGoal was written .* measure\(victim, test, rng\); CHANGELOG.md says what changed"):
        run(goal, dataclasses.replace(store, trusted=(*store.trusted, "tests.")))
