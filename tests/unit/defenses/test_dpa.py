"""The ensemble, its isolation, and its certificate against brute force."""

import dataclasses
import itertools

import pytest
import torch

from defenses.certify.dpa import radius
from defenses.train.dpa import divided
from poisonbench import own_task
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.rng import Key
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

WORDS = ("defense=dpa", "defense.train.parts=6")


def answer(votes: list[int]) -> int:
    return max(range(len(votes)), key=lambda kind: (votes[kind], -kind))


def true_radius(members: tuple[int, ...], kinds: int) -> int:
    """The largest r such that no change of any r members changes the answer."""
    counted = [members.count(kind) for kind in range(kinds)]
    first = answer(counted)
    for changed in range(1, len(members) + 1):
        for places in itertools.combinations(range(len(members)), changed):
            for values in itertools.product(range(kinds), repeat=changed):
                other = list(members)
                for place, value in zip(places, values, strict=True):
                    other[place] = value
                if answer([other.count(kind) for kind in range(kinds)]) != first:
                    return changed - 1
    return len(members)


def test_the_radius_equals_brute_force_over_every_change_of_votes_ties_included():
    instances, ties = 0, 0
    for kinds, most in ((2, 8), (3, 7), (4, 7), (5, 5)):
        for k in range(1, most + 1):
            for members in itertools.combinations_with_replacement(range(kinds), k):
                counted = [members.count(kind) for kind in range(kinds)]
                radii, answers = radius(torch.tensor([counted]))
                assert int(answers[0]) == answer(counted)
                assert int(radii[0]) == true_radius(members, kinds), members
                instances, ties = instances + 1, ties + (counted.count(max(counted)) > 1)
    assert instances >= 500
    assert ties >= 50


def test_ties_break_to_the_smaller_class():
    radii, answers = radius(torch.tensor([[2, 2, 0], [0, 3, 2], [1, 3, 0], [5, 0, 0]]))
    assert answers.tolist() == [0, 1, 1, 0]
    assert radii.tolist() == [0, 0, 0, 2]


def members(tiny, store, data):
    line = Line(experiment=tiny(*WORDS), store=store)
    return line.defended.fit(data, line.honest, Key.root(0)).members


def same(one, other) -> bool:
    return all(torch.equal(one.state()[name], other.state()[name]) for name in one.state())


@pytest.mark.parametrize("change", ["insert", "delete", "flip", "permute"])
def test_a_change_of_one_row_leaves_all_other_members_bit_identical(tiny, store, change):
    data = tiny(*WORDS).task.train
    before = members(tiny, store, data)
    fresh = data.take(torch.arange(1)).edit(torch.arange(1), inputs=255 - data.inputs[:1], ids=torch.tensor([-1]))
    changed = {
        "insert": lambda: data.append(fresh),
        "delete": lambda: data.take(torch.arange(len(data)) != 7),
        "flip": lambda: data.edit(torch.tensor([7]), labels=(data.labels[7:8] + 1) % 4),
        "permute": lambda: data.take(torch.arange(len(data)).flip(0)),
    }[change]()
    after = members(tiny, store, changed)
    differing = [place for place in before if not same(before[place], after[place])]
    assert len(differing) == (0 if change == "permute" else 1)


def test_parts_hang_on_inputs_and_salt_alone(tiny):
    data = tiny().task.train
    parts = divided(data, 6, Key.root(0))
    assert sum(map(len, parts)) == len(data)
    assert [len(part) for part in parts] != [len(part) for part in divided(data, 6, Key.root(1))]
    relabelled = divided(data.edit(torch.arange(len(data)), labels=(data.labels + 1) % 4), 6, Key.root(0))
    assert [len(part) for part in parts] == [len(part) for part in relabelled]


def test_a_part_without_rows_votes_for_the_first_class(tiny, store):
    data = tiny().task.train.take(torch.arange(3))
    line = Line(experiment=tiny(*WORDS), store=store)
    victim = line.defended.fit(data, line.honest, Key.root(0))
    empty = 6 - len(victim.members)
    assert empty > 0
    assert victim.scores(data.inputs).sum(1).tolist() == [6.0] * 3
    assert victim.scores(data.inputs)[:, 0].min() >= empty


def test_more_parts_than_rows_are_refused(tiny, store):
    with pytest.raises(ConfigError, match="380 training rows"):
        run(tiny("defense=dpa", "defense.train.parts=381"), store)


def test_no_insertion_of_r_rows_beats_the_certificate_at_r(tiny, store):
    """Any r injected rows, mislabelled at will, leave at least the certified accuracy at r."""
    experiment = tiny(*WORDS)
    task, line = experiment.task, Line(experiment=experiment, store=store)
    record = run(experiment, store)
    certified = record.metrics["certified"]
    assert certified[0] == record.metrics["c_acc"]
    for count in (1, 2):
        rows = torch.arange(40 * count)
        poison = task.train.take(rows[:count]).edit(
            torch.arange(count), inputs=task.test.inputs[:count], labels=(task.test.labels[:count] + 1) % 4, ids=-1 - torch.arange(count)
        )
        victim = line.defended.fit(task.train.append(poison), line.honest, line.root.child("fit"))
        c_acc = float((victim.scores(task.test.inputs).argmax(1) == task.test.labels).double().mean())
        assert c_acc >= (certified[count] if count < len(certified) else 0.0)


def test_the_record_tells_how_often_a_member_alone_is_right(tiny, store):
    experiment = tiny("defense=dpa", "defense.train.parts=6")
    line, test = Line(experiment=experiment, store=store), experiment.task.test
    record = run(experiment, store)
    victim = line.fit(line.defended, experiment.task.train, line.combine(experiment.defense.aggregate), label="defended")
    alone = [(member.scores(test.inputs).argmax(1) == test.labels).double().mean() for member in victim.members.values()]
    assert len(alone) == 6
    assert record.metrics["member_c_acc"] == pytest.approx(float(sum(alone)) / 6)
    assert "member_c_acc" not in run(tiny("defense=randomized_ablation", "defense.certify.draws=20"), store).metrics


def test_answers_beyond_class_255_are_votes_like_all_others(store):
    """300 classes, each a pixel of its own: a member is right wherever its part holds the class."""
    kinds = 300
    pixels, labels = torch.nn.functional.one_hot(torch.arange(kinds), 324).view(kinds, 1, 18, 18), torch.arange(kinds)
    shades = [(pixels * shade).to(torch.uint8) for shade in (180, 190, 200, 210, 220)]
    task = own_task(train=(torch.cat(shades[:4]), labels.repeat(4)), test=(shades[4], labels), trusted=0.0)
    words = ("task=digits", "threads=1", "learner=ridge", "learner.ridge=0.01", "defense=dpa", "defense.train.parts=2")
    line = Line(experiment=assemble(tree_of(words), store, task=task), store=store)
    victim = line.fit(line.defended, task.train, line.honest)
    tally = victim.tally(task.test.inputs)
    right = tally.answers_MR == labels[:, None]
    assert right[256:].double().mean() > 0.6  # a part lacks a class now and then
    assert abs(float(right[:256].double().mean()) - float(right[256:].double().mean())) < 0.1
    assert torch.equal(tally.votes_MK[labels, labels], right.sum(1))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Broken:
    """A member that scores NaN."""

    facts: dict = dataclasses.field(default_factory=dict)

    def scores(self, inputs, answers=None):
        return torch.full((len(inputs), 4), torch.nan)


def test_a_member_whose_scores_are_not_finite_has_no_vote(tiny, store):
    line = Line(experiment=tiny(*WORDS), store=store)
    data = line.experiment.task.train
    victim = line.fit(line.defended, data, line.honest)
    broken = dataclasses.replace(victim, members={**victim.members, 3: Broken()}, tallies={})
    with pytest.raises(
        Diverged, match="scores of an ensemble, by row, trained member and class: 800 of 4800 values are not finite, the first at \\[0, 3, 0\\]"
    ):
        broken.tally(line.experiment.task.test.inputs)
