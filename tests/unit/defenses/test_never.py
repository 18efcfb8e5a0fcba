"""The certificate of a named answer against a breadth-first search over votes, and against attacks."""

import dataclasses
import itertools
import random

import pytest
import torch

from defenses.certify.dpa import radius
from defenses.certify.never import NeverCertificate, least
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner import metrics
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.unit.defenses.brute import Told


def answer(votes: tuple[int, ...]) -> int:
    return max(range(len(votes)), key=lambda kind: (votes[kind], -kind))


def searched(votes: tuple[int, ...], named: int) -> int:
    """The fewest members that have to vote otherwise before the named class wins, whatever they vote."""
    seen, edge, steps = {votes}, {votes}, 0
    while not any(answer(state) == named for state in edge):
        moved = set()
        for state, (one, other) in itertools.product(edge, itertools.permutations(range(len(votes)), 2)):
            if state[one]:
                after = list(state)
                after[one], after[other] = after[one] - 1, after[other] + 1
                moved.add(tuple(after))
        edge, steps = moved - seen, steps + 1
        seen |= edge
    return steps


def test_the_closed_form_is_that_of_a_search_over_all_votes():
    dice, instances, ties = random.Random(100), 0, 0
    for _ in range(300):
        votes = tuple(dice.randint(0, 6) for _ in range(dice.choice((2, 3, 4))))
        if not sum(votes):
            continue
        told = least(torch.tensor([votes]))[0].tolist()
        assert told == [searched(votes, named) for named in range(len(votes))], votes
        instances, ties = instances + len(votes), ties + (votes.count(max(votes)) > 1)
    assert instances >= 700
    assert ties >= 40


def test_a_case_by_hand():
    """Votes 5, 1, 4. Class 1 with 2 votes more has 3, and 0 would have to lose 3 and 2 would have to lose 1: 4 votes, of the 2 that were taken.

    With 3 more it has 4: 0 has to lose 2, since it wins a tie, and 2 none: 2 of 3. Class 2 with 1 more has 5, and 0 has to lose 1 of 1.
    """
    assert least(torch.tensor([[5, 1, 4]])).tolist() == [[0, 3, 1]]
    assert least(torch.tensor([[0, 0, 7]])).tolist() == [[4, 4, 0]]


def test_the_named_answer_that_is_reached_first_has_the_radius_of_the_answer():
    dice = torch.Generator().manual_seed(100)
    votes = torch.randint(0, 30, (400, 5), generator=dice)
    radii, answers = radius(votes)
    others = (least(votes) - 1).scatter(1, answers[:, None], 1000)
    assert torch.equal(others.min(1).values, radii)


@pytest.mark.parametrize(("change", "touched"), [("insert", 1), ("edit", 2)])
def test_rows_of_the_named_class_do_not_count_and_changes_are_divided_by_what_they_touch(change, touched):
    votes = [[9, 1, 0], [0, 8, 2], [1, 0, 9], [3, 3, 4]]
    ensemble, test = Told(votes, touched=touched), Dataset.of(torch.zeros(4, 1), torch.tensor([0, 1, 2, 0]), num_classes=3)
    told = NeverCertificate(change=change, classes=(1, 2)).never(ensemble, test)
    parts = {1: [5, 5, 1], 2: [5, 4, 0]}  # of rows 0, 2 and 3, and of rows 0, 1 and 3
    assert {kind: radii.tolist() for kind, radii in told.items()} == {kind: [(count - 1) // touched for count in own] for kind, own in parts.items()}


def test_the_median_is_the_largest_radius_that_half_of_the_rows_have():
    assert metrics.median_radius(torch.tensor([5, 1, 3, -1])) == 3
    assert metrics.median_radius(torch.tensor([5, 1, -1])) == 1
    assert metrics.median_radius(torch.tensor([-1, -1, 4])) == -1
    assert metrics.median_radius(torch.zeros(0, dtype=torch.int64)) == -1


def test_a_record_has_a_median_for_each_class_and_none_is_below_the_radius_of_the_answer(tiny, store):
    experiment = tiny("attack=none", "defense=never", "defense.train.parts=5")
    record = run(experiment, store)
    assert set(record.metrics["never"]) == set("0123")
    line, test = Line(experiment=experiment, store=store), experiment.task.test
    victim = line.fit(line.defended, experiment.task.train, line.combine(experiment.defense.aggregate), label="defended")
    certify = experiment.defense.certify
    told, radii = certify.never(victim, test), certify.certify(victim, test)
    assert all(bool((told[kind] >= radii[test.labels != kind]).all()) for kind in told)


def test_no_insertions_make_a_named_answer_before_its_radius(tiny, store):
    """Rows of the named class with the inputs of test rows, into parts that the attacker does not choose."""
    experiment = tiny("attack=none", "learner=kernel_ridge", "defense=never", "defense.train.parts=6", "threat=insertions")
    task, line, named = experiment.task, Line(experiment=experiment, store=store), 1
    root = Key.root(100)
    asked = task.test.take(task.test.labels != named)
    victim = line.defended.fit(task.train, line.honest, root)
    radii, reached = experiment.defense.certify.never(victim, task.test)[named], 0
    for count in (1, 2, 4, 12):
        for start in range(0, 60, 12):
            copies = task.train.take(torch.zeros(count, dtype=torch.int64))
            inputs, labels = asked.inputs[start : start + 1].expand(count, *asked.inputs.shape[1:]).clone(), torch.full((count,), named)
            inputs[torch.arange(count), 0, 0, 0] = torch.arange(count).to(inputs.dtype)  # other bytes, other parts
            new = copies.with_columns(copies.columns | {"inputs": inputs, "labels": labels, "ids": -1 - torch.arange(count)})
            answers = line.defended.fit(task.train.append(new), line.honest, root).scores(asked.inputs).argmax(1)
            assert not ((answers == named) & (radii >= count)).any()
            reached += int(((answers == named) & (radii >= 0)).sum())
    assert reached > 0


@pytest.mark.parametrize(("classes", "says"), [("[]", "one or more classes"), ("[-1]", "from 0"), ("[4]", "from 0 to 3")])
def test_classes_that_do_not_exist_are_refused(tiny, store, classes, says):
    with pytest.raises(ConfigError, match=says):
        run(tiny("attack=none", "defense=never", "defense.train.parts=5", f"defense.certify.classes={classes}"), store)


def test_it_is_for_rows_that_reach_one_member():
    wide = dataclasses.make_dataclass("Wide", [])()
    with pytest.raises(ConfigError, match="counts votes"):
        NeverCertificate(change="insert", classes=None).never(wide, Dataset.of(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), num_classes=2))
