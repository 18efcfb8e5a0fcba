"""What the referee checks beyond edited rows: goals, injected and cover rows, further columns, and trainings that the attacker runs."""

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.attack import Attack, Crafted, Poisoned
from poisonbench.core.audit import audit, audit_probe, kinds
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Defense, Verdict
from poisonbench.core.delivery import delivered
from poisonbench.core.errors import BudgetError
from poisonbench.core.form import Column, Form
from poisonbench.core.goals import Backdoor, NoGoal, Probe
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan
from poisonbench.core.oversight import Refereed, allowed
from poisonbench.core.rng import Key
from poisonbench.core.threat import Budget
from poisonbench.learn.objectives import CROSS_ENTROPY, CrossEntropy
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

EVERYWHERE = torch.ones(10, dtype=torch.bool)
CLEAN_LABEL = Budget(rate=0.5, inject=True, relabel=False)


def clean() -> Dataset:
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 2) * 10
    return Dataset.of(pixels.contiguous(), torch.arange(10) % 2, num_classes=2)


def target() -> Dataset:
    return Dataset.of(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([1]), num_classes=2)


def injected(inputs: torch.Tensor, label: int, origins: list[int] | None = None) -> Poisoned:
    data = clean()
    new = data.take(torch.zeros(len(inputs), dtype=torch.int64))
    new = new.with_columns(new.columns | {"inputs": inputs, "labels": torch.full((len(inputs),), label), "ids": -1 - torch.arange(len(inputs))})
    mask = torch.arange(10 + len(inputs)) >= 10
    return Poisoned(data=data.append(new), mask=mask, goal=NoGoal(), origins=None if origins is None else torch.tensor(origins))


def test_copies_of_the_target_under_a_wrong_label_are_no_clean_label_poison():
    copies = target().inputs.expand(2, 1, 2, 2)
    with pytest.raises(BudgetError, match="name the clean row that each was made from"):
        audit(clean(), injected(copies, 0), CLEAN_LABEL, EVERYWHERE, target())
    with pytest.raises(BudgetError, match="copy of a target under another label"):
        audit(clean(), injected(copies, 0, [0, 2]), CLEAN_LABEL, EVERYWHERE, target())
    audit(clean(), injected(copies, 1, [1, 3]), CLEAN_LABEL, EVERYWHERE, target())  # the target's own label


def test_an_edited_row_may_not_become_a_copy_of_the_target_either():
    data = clean().edit(torch.tensor([0]), inputs=target().inputs)
    attempt = Poisoned(data=data, mask=torch.arange(10) == 0, goal=NoGoal())
    with pytest.raises(BudgetError, match="copy of a target"):
        audit(clean(), attempt, Budget(rate=0.5, relabel=False), EVERYWHERE, target())
    audit(clean(), attempt, Budget(rate=0.5), EVERYWHERE, target())  # where labels may change it is allowed


def test_an_injected_row_is_measured_against_the_row_it_was_made_from():
    near = torch.full((1, 1, 2, 2), 33, dtype=torch.uint8)  # 3 from row 3
    budget = Budget(rate=0.5, inject=True, norm="linf", limit=4.0, relabel=False)
    audit(clean(), injected(near, 1, [3]), budget, EVERYWHERE)
    for origins, label, says in (([2], 0, "changed by 13 in linf"), ([3], 0, "labels changed"), ([10], 1, "origins are positions"), (None, 1, "made from")):
        with pytest.raises(BudgetError, match=says):
            audit(clean(), injected(near, label, origins), budget, EVERYWHERE)
    audit(clean(), injected(near, 0), Budget(rate=0.5, inject=True), EVERYWHERE)  # nothing limits it: no origin needed


def test_an_injected_row_belongs_to_a_client_of_the_attackers():
    owned = clean().with_columns(clean().columns | {"owners": torch.arange(10) % 5})
    attempt = injected(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 0)
    for owner, holds in ((0, True), (3, False)):
        new = attempt.data.take(torch.tensor([10]))
        data = owned.append(new.with_columns(new.columns | {"owners": torch.tensor([owner])}))
        poisoned = dataclasses.replace(attempt, data=data)
        if holds:
            audit(owned, poisoned, Budget(rate=0.5, inject=True), owned.owners == 0)
        else:
            with pytest.raises(BudgetError, match="a client that is not the attacker"):
                audit(owned, poisoned, Budget(rate=0.5, inject=True), owned.owners == 0)


def test_a_rewritten_caption_is_no_clean_label_poison():
    data = clean().with_column("captions", torch.arange(10), Column(form=Form(), role="said"))
    edited = data.edit(torch.tensor([4]), captions=torch.tensor([99]))
    attempt = Poisoned(data=edited, mask=torch.arange(10) == 4, goal=NoGoal())
    with pytest.raises(BudgetError, match="1 captions changed"):
        audit(data, attempt, Budget(rate=0.5, relabel=False), EVERYWHERE)
    audit(data, attempt, Budget(rate=0.5), EVERYWHERE)


def test_the_referee_says_what_each_row_is():
    data = clean().edit(torch.tensor([1, 2]), inputs=torch.full((2, 1, 2, 2), 7, dtype=torch.uint8))
    rows = torch.arange(10)
    found = kinds(clean(), Poisoned(data=data, mask=rows < 4, goal=NoGoal(), cover=(rows == 2) | (rows == 3)))
    assert found.poison.nonzero()[:, 0].tolist() == [1]
    assert found.cover.nonzero()[:, 0].tolist() == [2]
    assert found.untouched.nonzero()[:, 0].tolist() == [0, 3]  # named, and left as they were
    assert not found.injected.any()


def test_a_cover_row_keeps_its_label_and_lies_in_the_mask():
    rows = torch.arange(10)
    relabelled = clean().edit(torch.tensor([1]), labels=torch.tensor([0]))
    for poisoned, says in (
        (Poisoned(data=relabelled, mask=rows == 1, goal=NoGoal(), cover=rows == 1), "cover rows have a new label"),
        (Poisoned(data=relabelled, mask=rows == 1, goal=NoGoal(), cover=rows == 2), "some of the rows in the mask"),
        (Poisoned(data=relabelled, mask=rows == 1, goal=NoGoal(), cover=(rows == 1)[:3]), "some of the rows in the mask"),
    ):
        with pytest.raises(BudgetError, match=says):
            audit(clean(), poisoned, Budget(rate=0.5), EVERYWHERE)


def test_poison_that_is_called_cover_is_refused():
    rows = torch.arange(10)
    fresh = injected(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 1, [1])
    with pytest.raises(BudgetError, match="1 injected rows are marked as cover"):
        audit(clean(), dataclasses.replace(fresh, cover=torch.arange(11) == 10), Budget(rate=0.5, inject=True), EVERYWHERE)
    edited = clean().edit(torch.tensor([1, 3]), inputs=torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
    mask = (rows == 1) | (rows == 3)
    with pytest.raises(BudgetError, match="every changed row is marked as cover"):
        audit(clean(), Poisoned(data=edited, mask=mask, goal=NoGoal(), cover=mask), Budget(rate=0.5), EVERYWHERE)
    audit(clean(), Poisoned(data=edited, mask=mask, goal=NoGoal(), cover=rows == 1), Budget(rate=0.5), EVERYWHERE)


def test_an_injected_copy_of_a_clean_row_is_a_clean_row():
    attempt = injected(torch.stack([clean().inputs[3], clean().inputs[3] + 1, clean().inputs[2]]), 1)
    found = kinds(clean(), attempt)
    assert found.untouched.nonzero()[:, 0].tolist() == [10]  # row 3 with its own label 1
    assert found.poison.nonzero()[:, 0].tolist() == [11, 12]  # another input; an input of class 0 under label 1


def test_a_row_that_differs_in_a_further_column_alone_is_poison():
    captions = torch.arange(10)
    told = clean().with_columns(clean().columns | {"caption": captions})
    attempt = injected(clean().inputs[3:4], 1)
    for caption, untouched in ((3, [10]), (9, [])):
        new = attempt.data.take(torch.tensor([10]))
        data = told.append(new.with_columns(new.columns | {"caption": torch.tensor([caption])}))
        assert kinds(told, dataclasses.replace(attempt, data=data)).untouched.nonzero()[:, 0].tolist() == untouched
    with pytest.raises(BudgetError, match="the column caption is new after poisoning"):
        audit(clean(), Poisoned(data=told, mask=torch.zeros(10, dtype=torch.bool), goal=NoGoal()), Budget(rate=0.5), EVERYWHERE)


def test_a_clean_label_threat_has_no_cover_rows():
    data = clean().edit(torch.tensor([1]), inputs=torch.full((1, 1, 2, 2), 7, dtype=torch.uint8))
    rows = torch.arange(10)
    with pytest.raises(BudgetError, match="no row is cover"):
        audit(clean(), Poisoned(data=data, mask=rows == 1, goal=NoGoal(), cover=rows == 1), Budget(rate=0.5, relabel=False), EVERYWHERE)


def test_what_was_changed_is_told_in_the_words_of_certificates():
    whole = clean()
    flips = whole.edit(torch.tensor([0, 1]), labels=(whole.labels[:2] + 1) % whole.num_classes)
    edited = flips.edit(torch.tensor([1, 2]), inputs=255 - whole.inputs[1:3])
    mask = torch.arange(len(whole)) < 3
    told = [delivered(whole, Poisoned(data=data, mask=mask, goal=NoGoal()), Key.root(0)).changes(whole) for data in (whole, flips, edited)]
    assert told == [{}, {"flipped labels": 2}, {"flipped labels": 1, "edited rows": 2}]
    extra = whole.take(torch.tensor([3]))
    put_in = flips.append(dataclasses.replace(extra, inputs=255 - extra.inputs, ids=torch.tensor([-1])))
    received = delivered(whole, Poisoned(data=put_in, mask=torch.cat([mask, torch.ones(1).bool()]), goal=NoGoal()), Key.root(0))
    assert received.changes(whole) == {"inserted rows": 1, "edited rows": 2}


def test_names_and_order_of_delivered_rows_tell_nothing_about_injected_ones():
    poisoned = injected(torch.full((5, 1, 2, 2), 3, dtype=torch.uint8), 1)
    seen = [delivered(clean(), poisoned, Key.root(seed)) for seed in range(200)]
    assert all(sorted(one.data.ids.tolist()) == list(range(15)) for one in seen)
    assert all(torch.equal(one.data.ids, torch.arange(15)) for one in seen)
    assert all((one.data.inputs[one.kinds.injected] == 3).all() and one.kinds.poison.sum() == 5 for one in seen)
    shares = torch.stack([one.kinds.poison for one in seen]).double().mean(0)
    assert (shares - 1 / 3).abs().max() < 0.15  # 4.4 standard deviations of 200 fair draws: no place is more suspicious than another


def test_rows_that_were_edited_alone_keep_place_and_name():
    data = clean().edit(torch.tensor([1]), labels=torch.tensor([0]))
    one = delivered(clean(), Poisoned(data=data, mask=torch.arange(10) == 1, goal=NoGoal()), Key.root(0))
    assert one.data is data


def probe(**changes) -> Probe:
    test = clean()
    rows = torch.tensor([1, 3, 5])
    fields = {"rows": rows, "inputs": test.inputs[rows], "truth": test.labels[rows], "hit": torch.tensor([[True, False]] * 3)}
    return Probe(**fields | changes)


FALSE_PROBES = {
    "the labels of its test rows": {"truth": torch.tensor([1, 1, 0])},
    "a probe counts a right answer as a hit": {"hit": torch.tensor([[True, False], [True, True], [True, False]])},
    "8 of the rows that a goal names as targets": {"targets": torch.arange(9)},
    "each at most once": {"rows": torch.tensor([1, 1, 5])},
    "the task has 10": {"rows": torch.tensor([1, 3, 10])},
    "unlike those of the 3 test rows": {"inputs": clean().inputs[:2]},
    "probed inputs are torch.float32": {"inputs": clean().inputs[:3].float()},
    "give one bool for each of 3 rows and 2 answers": {"hit": torch.ones(3, 3, dtype=torch.bool)},
}


@pytest.mark.parametrize("says", FALSE_PROBES)
def test_a_probe_that_does_not_fit_the_task_is_refused(says):
    audit_probe(probe(), clean(), torch.tensor([4]))
    with pytest.raises(BudgetError, match=says):
        audit_probe(probe(**FALSE_PROBES[says]), clean(), torch.tensor([4]))


@dataclass(frozen=True, kw_only=True)
class Boast(NoGoal):
    """A goal that reports false figures."""

    VERSION: ClassVar[int] = 1

    def measure(self, victim, test, rng):
        return {"c_acc": 0.123, "asr": 1.0, "tpr": 0.0}

    def compare(self, figures, baseline):
        figures["c_acc"] = baseline["c_acc"] = 0.123
        return {}


@dataclass(frozen=True, kw_only=True)
class Boaster:
    """Poison nothing and use a goal with false figures."""

    VERSION: ClassVar[int] = 1

    def poison(self, known, rng):
        return Poisoned(data=known.rows, mask=known.mask(torch.arange(0)), goal=Boast())


def test_a_goals_own_figures_take_no_other_figures_place(tiny, store):
    store = dataclasses.replace(store, trusted=(*store.trusted, __name__))
    record = run(tiny(attack=Attack(data=Boaster())), store)
    assert "asr" not in record.metrics
    assert record.metrics["c_acc"] == record.baseline["c_acc"] != 0.123
    assert record.metrics["goal"] == {"c_acc": 0.123, "asr": 1.0, "tpr": 0.0}


@dataclass(frozen=True, eq=False, kw_only=True)
class Rigged(Backdoor):
    """A backdoor whose probe counts right answers as successes."""

    VERSION: ClassVar[int] = 1

    def probe(self, test):
        honest = super().probe(test)
        return dataclasses.replace(honest, hit=torch.ones_like(honest.hit))


@dataclass(frozen=True, kw_only=True)
class Rigger:
    """Poison nothing and count every answer as a success."""

    VERSION: ClassVar[int] = 1

    def poison(self, known, rng):
        goal = Rigged(trigger=Brighten(), wish=torch.zeros(known.rows.num_classes, dtype=torch.int64))
        return Poisoned(data=known.rows, mask=known.mask(torch.arange(0)), goal=goal)


@dataclass(frozen=True, kw_only=True)
class Brighten:
    """The trigger that does nothing."""

    VERSION: ClassVar[int] = 1

    def __call__(self, inputs):
        return inputs


def test_the_line_refuses_a_rigged_probe(tiny, store):
    store = dataclasses.replace(store, trusted=(*store.trusted, __name__))
    with pytest.raises(BudgetError, match="a probe counts a right answer as a hit"):
        run(tiny(attack=Attack(data=Rigger())), store)


@dataclass(frozen=True, kw_only=True)
class Greedy(PlainStep):
    """Relabel the first rows of every batch, in the number `asked`, or as many as are allowed."""

    VERSION: ClassVar[int] = 1
    asked: int | None = None
    late: bool = False

    def changed(self, batch: Batch, count: int) -> Batch:
        labels = batch.labels.clone()
        labels[:count] = 1 - labels[:count]
        return dataclasses.replace(batch, labels=labels)

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        return batch if self.late else self.changed(batch, moment.allowed if self.asked is None else self.asked)

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        return self.changed(batch, 1) if self.late else batch


def moment(step: int) -> Moment:
    plan = Plan(rows=100, epochs=2, steps=7, shape=(1, 2, 2))
    return Moment(module=None, plan=plan, epoch=step // 7, step=step, rng=Key.root(step))


def batch() -> Batch:
    data = clean()
    return Batch(inputs=data.inputs, labels=data.labels, ids=data.ids)


@pytest.mark.parametrize("budget", [Budget(rate=0.05), Budget(rate=0.01), Budget(count=5), Budget(rate=0.0)])
def test_an_attacker_who_runs_the_training_changes_no_more_rows_of_an_epoch_than_the_budget_says(budget):
    step, total = Refereed(step=Greedy(), budget=budget), 0
    for number in range(14):
        total += int((step.rows(batch(), moment(number)).labels != batch().labels).sum())
        assert total == int(budget.share(100) * 100 * (number + 1) / 7 + 1e-9)
    assert total == 2 * budget.rows(100)


def test_one_row_too_many_in_a_step_is_refused():
    for number in range(14):
        ration = allowed(Budget(rate=0.05), moment(number))
        with pytest.raises(BudgetError, match=f"allows {ration} here"):
            Refereed(step=Greedy(asked=ration + 1), budget=Budget(rate=0.05)).rows(batch(), moment(number))


def test_labels_norm_and_place_of_a_change_are_checked_in_a_training_too():
    with pytest.raises(BudgetError, match="relabel=false"):
        Refereed(step=Greedy(), budget=Budget(rate=0.5, relabel=False)).rows(batch(), moment(0))
    with pytest.raises(BudgetError, match="before augmentation"):
        Refereed(step=Greedy(late=True), budget=Budget(rate=0.5)).batch(batch(), moment(0))


def test_a_training_attack_beyond_its_budget_ends_in_a_sentence(tiny, store):
    store = dataclasses.replace(store, trusted=(*store.trusted, __name__))
    with pytest.raises(BudgetError, match="rows changed in one step"):
        run(tiny("threat.budget.rate=0.01", attack=Attack(train=Greedy(asked=20))), store)


@dataclass(frozen=True, kw_only=True)
class InPlace(PlainStep):
    """Write into the tensors that it receives."""

    where: str

    def rows(self, batch, moment):
        return self._written(batch, "rows")

    def batch(self, batch, moment):
        return self._written(batch, "batch")

    def loss(self, losses, batch, moment):
        self._written(batch, "loss")
        return losses

    def _written(self, batch, where):
        if where == self.where:
            batch.labels.copy_(1 - batch.labels.clamp(max=1))
            batch.inputs.zero_()
        return batch


@pytest.mark.parametrize(("where", "says"), [("rows", "allows 0 here"), ("batch", "before augmentation"), ("loss", "")])
def test_what_an_attackers_step_writes_in_place_is_seen(where, says):
    step, before, after = Refereed(step=InPlace(where=where), budget=Budget(rate=0.0)), batch(), batch()
    asked = {"rows": step.rows, "batch": step.batch, "loss": lambda batch, moment: step.loss(torch.zeros(3), batch, moment)}[where]
    with pytest.raises(BudgetError, match=says) if says else contextlib.nullcontext():
        asked(after, moment(0))
    assert torch.equal(after.labels, before.labels)
    assert torch.equal(after.inputs, before.inputs)


ROWS = Dataset.of(torch.zeros(10, 2), torch.ones(10, dtype=torch.int64), num_classes=2)


@dataclass(frozen=True, kw_only=True)
class Sampled(PlainStep):
    """Choose the rows of each step by a function."""

    how: object

    def sample(self, batches, data, moment):
        return self.how(list(batches))


@pytest.mark.parametrize(
    "how",
    [
        lambda batches: [batch[:1] for batch in batches],
        lambda batches: batches[:-1],
        lambda batches: [*batches, batches[0]],
        lambda batches: [torch.cat([batch, batch]) for batch in batches],
    ],
    ids=["smaller", "fewer", "more", "larger"],
)
def test_an_attacker_who_runs_the_training_chooses_rows_but_not_how_many(how):
    batches = [torch.arange(5), torch.arange(5, 10)]
    with pytest.raises(BudgetError, match="not how many"):
        list(Refereed(step=Sampled(how=how), budget=Budget(rate=0.5)).sample(batches, ROWS, moment(0)))
    turned = list(Refereed(step=Sampled(how=lambda rows: rows[::-1]), budget=Budget(rate=0.5)).sample(batches, ROWS, moment(0)))
    assert [rows.tolist() for rows in turned] == [rows.tolist() for rows in batches[::-1]]


def test_an_attacker_who_runs_the_training_gets_copies_of_the_rows_and_no_trusted_ones():
    shown = []

    @dataclass(frozen=True, kw_only=True)
    class Curious(PlainStep):
        def begin(self, module, trusted):
            shown.append(len(trusted))

        def sample(self, batches, data, moment):
            data.labels.zero_()
            return batches

    step = Refereed(step=Curious(), budget=Budget(rate=0.5))
    step.begin(None, ROWS)
    list(step.sample([torch.arange(10)], ROWS, moment(0)))
    assert shown == [0]
    assert ROWS.labels.all()


def test_an_attacker_who_runs_the_training_changes_no_objective():
    @dataclass(frozen=True, kw_only=True)
    class Other(PlainStep):
        def objective(self, objective, moment):
            return CrossEntropy()

    with pytest.raises(BudgetError, match=r"changes losses in Step\.loss"):
        Refereed(step=Other(), budget=Budget(rate=0.5)).objective(CROSS_ENTROPY, moment(0))
    assert Refereed(step=PlainStep(), budget=Budget(rate=0.5)).objective(CROSS_ENTROPY, moment(0)) is CROSS_ENTROPY


@dataclass(frozen=True, kw_only=True)
class Vandal:
    """Write into the tensors that an attacker on rows receives, and return them."""

    what: str

    def poison(self, known, rng):
        {"rows": known.rows.labels, "targets": known.targets.labels, "public": known.public.inputs, "writable": known.writable}[self.what].fill_(1)
        mask = torch.zeros(len(known.rows), dtype=torch.bool)
        mask[0] = self.what == "writable"
        return Poisoned(data=known.rows, mask=mask, goal=NoGoal())


@pytest.mark.parametrize("what", ["rows", "targets", "public", "writable"])
def test_an_attack_that_writes_into_what_it_is_handed_is_refused(tiny, store, what):
    words = ("threat.trials=2", "task.public=0.1", "task.clients=9", "threat.budget.clients=0.2", "threat.budget.rate=0.5")
    experiment = tiny("attack=none", *words, attack=Attack(data=Vandal(what=what)))
    line = Line(experiment=experiment, store=store)
    if what == "writable":
        assert not line.known().writable[0]
    with pytest.raises(BudgetError, match="do not belong to the attacker" if what == "writable" else "changed rows in place"):
        line.strike()


@dataclass(frozen=True, kw_only=True)
class VandalGoal(NoGoal):
    def probe(self, test):
        test.labels.fill_(0)
        return super().probe(test)


@dataclass(frozen=True, kw_only=True)
class Harmless:
    goal: NoGoal

    def poison(self, known, rng):
        return Poisoned(data=known.rows, mask=torch.zeros(len(known.rows), dtype=torch.bool), goal=self.goal)


def test_a_goal_that_writes_into_the_test_rows_is_refused(tiny, store):
    store = dataclasses.replace(store, trusted=(*store.trusted, __name__))
    with pytest.raises(BudgetError, match="goal changed rows in place"):
        run(tiny(attack=Attack(data=Harmless(goal=VandalGoal()))), store)


@dataclass(frozen=True, kw_only=True)
class VandalFilter:
    def judge(self, data, means, rng):
        data.labels.fill_(0)
        return Verdict(keep=torch.ones(len(data), dtype=torch.bool), suspicion=torch.zeros(len(data)))


def test_a_filter_that_writes_into_the_rows_is_refused(tiny, store):
    with pytest.raises(BudgetError, match="the filter changed rows in place"):
        run(tiny("attack=backdoor", defense=Defense(sanitize=VandalFilter())), store)


@dataclass(frozen=True, kw_only=True)
class Claiming:
    """Mark every client as malicious, and reverse all updates."""

    def craft(self, round, rng):
        round.malicious.fill_(True)
        return Crafted(updates=-5 * round.updates)


def test_an_attack_on_updates_that_writes_into_what_it_is_handed_gains_nothing(tiny, store):
    with pytest.raises(BudgetError, match="the update of an honest client"):
        run(tiny("attack=federated", attack=Attack(update=Claiming())), store)


def test_wanet_training_takes_its_rate_from_the_threat(tiny, store):
    """The attack has no field for a rate; at 1 % of the rows no victim learns the warp."""
    attack = tiny("attack=wanet_training", "threat.budget.rate=0.3").attack
    assert [field.name for field in dataclasses.fields(attack.train)] == ["like"]
    step = Refereed(step=attack.train, budget=Budget(rate=0.3))
    pictures = torch.randint(0, 256, (30, 1, 8, 8), generator=Key.root(0).torch()).to(torch.uint8)
    before = Batch(inputs=pictures, labels=torch.ones(30, dtype=torch.int64), ids=torch.arange(30))
    plan = Plan(rows=30, epochs=1, steps=1, shape=(1, 8, 8))
    after = step.rows(before, Moment(module=None, plan=plan, epoch=0, step=0, rng=Key.root(0)))
    changed = (after.inputs != before.inputs).flatten(1).any(1)
    assert int(changed.sum()) == 9  # three triggered and six cover rows
    assert int((after.labels != before.labels).sum()) == 3


def test_filters_are_told_the_count_of_the_threat(tiny, store):
    for words, wanted in ((("threat.budget.count=19",), 19 / 380), (("threat.budget.rate=0.1",), 0.1), (("defense.sanitize.expected_rate=0.2",), 0.2)):
        assert tiny("attack=backdoor", "defense=spectral", *words).defense.sanitize.expected_rate == wanted
    nested = tiny("attack=backdoor", "defense=random_drop", "threat.budget.count=19")
    assert nested.defense.sanitize.like.sanitize.expected_rate == 19 / 380


def test_a_record_says_where_the_rate_that_a_filter_assumes_comes_from(tiny, shared):
    place = "defense.sanitize.expected_rate"
    known, guessed, unattacked = (
        run(tiny("defense=spectral", *words), shared).assumed[place]
        for words in (("attack=backdoor", "threat.budget.count=19"), ("attack=backdoor", f"{place}=0.2"), ("attack=none",))
    )
    assert known == {"value": 19 / 380, "source": "the threat's own rate"}
    assert guessed == {"value": 0.2, "source": "a stated assumption, not the threat's own rate"}
    assert unattacked == {"value": 0.05, "source": "a stated assumption: attack=none poisons nothing"}


@dataclass(frozen=True, kw_only=True)
class Peeker:
    """A foreign filter that declares to need the truth."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"truth"})

    def judge(self, data, means, rng):
        from poisonbench.core.defense import Verdict

        return Verdict(keep=~means.truth, suspicion=means.truth.float())


def test_what_a_foreign_plugin_declares_stands_in_the_specification(tiny, shared):
    from poisonbench.core.defense import Defense

    experiment = tiny("attack=backdoor", defense=Defense(sanitize=Peeker()))
    record = run(experiment, shared)
    assert record.spec["defense"]["needs"] == ["truth"]
    assert "needs" not in record.spec["attack"]
    assert record.metrics["tpr"] == 1.0


def test_the_number_of_a_client_does_not_say_whether_it_is_malicious(tiny, store):
    words = ("attack=federated", "task.clients=9", "threat.budget.clients=0.34")
    drawn = [Line(experiment=tiny(*words, f"seed={seed}"), store=store).malicious for seed in range(12)]
    assert {len(clients) for clients in drawn} == {3}
    assert len({tuple(clients.tolist()) for clients in drawn}) > 6
    assert set(torch.cat(drawn).tolist()) > set(range(3))


def test_no_verdict_can_be_read_off_the_names_of_injected_rows(tiny, store):
    line = Line(experiment=tiny("attack=canaries"), store=store)
    received = line.strike()
    assert received.kinds.injected.any()
    assert (received.data.ids >= 0).all()
    assert not torch.equal(received.kinds.injected.sort().values, received.kinds.injected)
