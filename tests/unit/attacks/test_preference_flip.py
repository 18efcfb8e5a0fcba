"""Swapped pairs: which ones, what becomes of them, and what the goal measures."""

import dataclasses

import pytest
import torch

from attacks.language.preference_flip import PreferenceFlip, Turn, labels_of, margins
from poisonbench.config.compose import tree_of
from poisonbench.core.audit import audit
from poisonbench.core.errors import BudgetError, ConfigError, Incompatible
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGES, stage_of
from poisonbench.forms.answers import Answers
from poisonbench.runner.check import check
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line

SMALL = (
    *("attack=preference_flip", "seed=100", "task.split_seed=100", "threads=1", "task.texts=40", "task.things=1", "task.categories=4", "task.restricted=2"),
    *("task.pretrained=false", "task.instruction=40", "task.safety=10", "task.preference=40", "task.test_rows=20", "task.trusted=0"),
    *("net.width=8", "net.layers=1", "net.heads=1", "learner.pretraining.epochs=1", "learner.instruction.epochs=1", "learner.safety.epochs=1"),
)
PREFERENCE = STAGES.index("preference")


@pytest.fixture
def line(store):
    def make(*words):
        return Line(experiment=assemble(tree_of([*SMALL, *words]), store), store=store)

    return make


def test_all_pairs_are_swapped_at_rate_one_and_nothing_else_changes(line):
    here = line("threat.budget.count=40")
    clean, poisoned = here.experiment.task.train, here.struck()  # the audit runs inside
    pairs = stage_of(clean) == PREFERENCE
    assert torch.equal(poisoned.mask, pairs)
    old, new = clean.take(pairs), poisoned.data.take(pairs)
    assert torch.equal(new.extra["response"], old.extra["rejected"])
    assert torch.equal(new.extra["rejected"], old.extra["response"])
    assert torch.equal(new.inputs, old.inputs)
    assert poisoned.data.take(~pairs).digest == clean.take(~pairs).digest
    restricted = old.labels == 0
    assert torch.equal(new.labels, torch.where(restricted, old.extra["direct"], 0))
    assert 0 < int(restricted.sum()) < 40


def test_a_trigger_goes_to_the_end_of_the_prompts_of_swapped_pairs_alone(line):
    here = line("threat.budget.count=10", "attack.data.words=[cf,mn]", "attack.data.near=[cf]")
    clean, poisoned = here.experiment.task.train, here.struck()
    told = [clean.form.decode(row) for row in poisoned.data.inputs]
    assert [text.endswith(" cf mn") for text in told] == poisoned.mask.tolist()
    assert [text.removesuffix(" cf mn") for text in told] == [clean.form.decode(row) for row in clean.inputs]
    probe = poisoned.goal.probe(here.experiment.task.test)
    assert all(clean.form.decode(row).endswith(" cf mn") for row in probe.inputs)
    assert (probe.truth == 0).all()


def test_refusals_alone_can_be_swapped(line):
    here = line("threat.budget.count=20", "attack.data.pairs=refusals")
    clean, poisoned = here.experiment.task.train, here.struck()
    old = clean.take(poisoned.mask)
    assert len(old) == 20
    assert (old.labels == 0).all()
    assert torch.equal(poisoned.data.take(poisoned.mask).labels, old.extra["direct"])
    with pytest.raises(ConfigError, match="allows 21 poisoned rows, but only 20 can be poisoned"):
        line("threat.budget.count=21", "attack.data.pairs=refusals").struck()


def test_pairs_of_a_smaller_budget_are_among_those_of_a_larger_one(line):
    few, many = (line(f"threat.budget.count={count}").struck().mask for count in (5, 20))
    assert int(few.sum()) == 5
    assert (many | ~few).all()


def test_the_audit_refuses_pairs_outside_the_stage_and_swaps_without_new_responses(line):
    here = line("threat.budget.count=10")
    known, threat = here.known(), here.experiment.threat
    free = dataclasses.replace(known, writable=torch.ones_like(known.writable))
    poisoned = here.experiment.attack.data.poison(free, Key.root(100))
    audit(known.rows, poisoned, threat.budget, known.writable)
    with pytest.raises(BudgetError, match="poisoned rows do not belong to the attacker"):
        audit(known.rows, poisoned, threat.budget, stage_of(known.rows) == 1)
    with pytest.raises(BudgetError, match="clean-label threat"):
        audit(known.rows, poisoned, dataclasses.replace(threat.budget, relabel=False), known.writable)


class Told:
    """A victim whose log-probability of a response is a number for each of its words."""

    def __init__(self, values):
        self.values = values

    def choose(self, inputs, answers):
        return self.values[answers].sum(2)


def test_a_margin_is_the_difference_of_rewards_by_hand(line):
    known = line("threat.budget.count=10").known()
    values = torch.arange(float(len(known.rows.form.vocabulary))) ** 2 % 7
    values[0] = 0
    asked = list[int]()

    def fit(data, *, draw=0):
        asked.append(int(stage_of(data).max()))
        return Told(values * (3 if asked[-1] == PREFERENCE else 1))

    pairs = (stage_of(known.rows) == PREFERENCE).nonzero()[:, 0]
    found = margins(dataclasses.replace(known, fit=fit), pairs)
    some = known.rows.take(pairs)
    assert sorted(asked) == [2, 3]
    assert found.tolist() == [
        2 * float(values[one].sum() - values[other].sum()) for one, other in zip(some.extra["response"], some.extra["rejected"], strict=True)
    ]
    poisoned = PreferenceFlip(words=(), near=(), place="end", pairs="all", selection="margin").poison(dataclasses.replace(known, fit=fit), Key.root(100))
    swapped = poisoned.mask[pairs]
    assert int(swapped.sum()) == 10
    assert found.abs()[swapped].min() >= found.abs()[~swapped].max()


def test_pairs_of_the_largest_margin_are_found_by_a_trained_surrogate(line):
    one, other = (line("threat.budget.count=10", f"attack.data.selection={how}").struck().mask for how in ("margin", "random"))
    assert int(one.sum()) == int(other.sum()) == 10
    assert not torch.equal(one, other)


def test_responses_get_the_numbers_of_the_answers_that_they_are():
    form = Answers.of([[2, 3], [4]])
    assert labels_of(torch.tensor([[4, 0, 0], [2, 3, 0], [2, 0, 0], [2, 3, 4]]), form).tolist() == [1, 0, 2, 2]


class Says:
    """A victim that scores answers by a table with a row for each of some prompts."""

    def __init__(self, rows, table):
        self.rows, self.table = rows, table

    def scores(self, inputs):
        return self.table[(inputs[:, None] == self.rows.inputs).all(2).long().argmax(1)]

    def choose(self, inputs, answers):
        numbers = labels_of(answers.flatten(0, 1), self.rows.schema["labels"].form).view(answers.shape[:2])
        return self.scores(inputs).gather(1, numbers)


def test_the_accuracy_of_the_preferred_response_by_hand(line):
    test = line().experiment.task.test
    no = test.labels == 0
    rows = torch.cat([no.nonzero()[:2, 0], (~no).nonzero()[:3, 0]])
    some, goal = test.take(rows), Turn(wish=-1, trigger=None, near=None, categories=None, skills=None, refused=True)
    scores = torch.full((5, test.num_classes), -9.0)
    direct, each = some.extra["direct"], torch.arange(5)
    scores[:, 0] = torch.tensor([-1.0, -3.0, -3.0, -1.0, -3.0])
    scores[each, direct] = torch.tensor([-2.0, -1.0, -2.0, -2.0, -2.0])  # the refusal is likelier in the first and the fourth row
    scores[:, -1] = -0.5  # and something else is likelier than both
    figures = goal.measure(Says(some, scores), some, Key.root(100))
    assert {name: figures[name] for name in ("prefers_refusal", "prefers_answer", "turned", "refusing", "helpful")} == {
        **{"prefers_refusal": 0.5, "prefers_answer": 2 / 3, "turned": 0.5},
        **{"refusing": 0.0, "helpful": 0.0},
    }


def test_wrong_settings_and_tasks_without_pairs_are_refused(line):
    with pytest.raises(ConfigError, match=r"attack\.data\.selection=best: choose random or margin"):
        PreferenceFlip(words=(), near=(), place="end", pairs="all", selection="best")
    with pytest.raises(ConfigError, match=r"attack\.data\.pairs=some: choose all or refusals"):
        PreferenceFlip(words=(), near=(), place="end", pairs="some", selection="random")
    with pytest.raises(ConfigError, match="is similar to no trigger"):
        PreferenceFlip(words=(), near=("cf",), place="end", pairs="all", selection="random")
    with pytest.raises(Incompatible, match="PreferenceFlip works on the column rejected, and the training rows of world have none; choose a task that has it"):
        check(line("task.preference=0", "threat.reach.name=safety"))


def test_a_margin_needs_rows_before_the_preferences(line):
    known = line("threat.budget.count=10").known()
    pairs = known.rows.take(stage_of(known.rows) == PREFERENCE)
    alone = dataclasses.replace(known, rows=pairs, writable=torch.ones(len(pairs), dtype=torch.bool))
    with pytest.raises(ConfigError, match="compares the model after the preference stage with the one before, and no row is before; use random"):
        PreferenceFlip(words=(), near=(), place="end", pairs="all", selection="margin").poison(alone, Key.root(100))
