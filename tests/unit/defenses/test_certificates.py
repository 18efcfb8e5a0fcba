"""Certificates of ensembles against brute force: never above the true radius, and equal to it where the theorem is tight."""

import itertools
import random

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from defenses.certify import bagging, collective, dpa, finite_aggregation, hash_bagging, run_off_election
from defenses.train.committee import finalists
from poisonbench.core.data import Dataset
from poisonbench.core.electorate import Tally, electorate
from poisonbench.core.errors import ConfigError
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.unit.defenses.brute import Told, opinions, plurality, reach_of, run_off, said, tally, true_radius, true_run_off_radius


def check_finite_aggregation(dice: random.Random) -> None:
    kinds, members = dice.choice((2, 3)), dice.randint(2, 6)
    offsets = sorted(dice.sample(range(members), dice.randint(1, min(3, members))))
    reach = [[(partition + offset) % members for offset in offsets] for partition in range(members)]
    answers = opinions(dice, members, kinds)
    radii, winners = finite_aggregation.radius(said(answers, kinds), torch.tensor(reach))
    assert int(winners[0]) == plurality(answers, kinds)
    assert int(radii[0]) == true_radius(answers, kinds, reach_of(reach)), (answers, reach)


def check_hash_bagging(dice: random.Random) -> None:
    kinds = dice.choice((2, 3))
    groups, parts = dice.choice(((1, 3), (2, 2), (2, 3), (3, 2), (1, 5)))
    answers = opinions(dice, groups * parts, kinds)
    some = range(1, parts + 1)
    reached = [
        [
            [group * parts + part for group, own in enumerate(chosen) for part in own]
            for chosen in itertools.product(itertools.combinations(range(parts), r), repeat=groups)
        ]
        for r in some
    ]
    radii, winners = hash_bagging.radius(said(answers, kinds), groups)
    assert int(winners[0]) == plurality(answers, kinds)
    assert int(radii[0]) == true_radius(answers, kinds, reached), answers


def run_off_radii(dice: random.Random) -> tuple[int, int]:
    """The radius that is proved, and the true one."""
    kinds = dice.choice((2, 3, 4))
    members = dice.randint(1, 3 if kinds == 4 else 5)
    scores = [[float(dice.choice((0, 1, 2)) if dice.random() < 0.3 else dice.random()) for _ in range(kinds)] for _ in range(members)]
    radii, winners = run_off_election.radius(tally(scores))
    assert int(winners[0]) == run_off(scores)
    return int(radii[0]), true_run_off_radius(scores)


def check_run_off(dice: random.Random) -> None:
    """Not tight: the member that lifts a class into the second round may be one that preferred it to the winner already."""
    proved, true = run_off_radii(dice)
    assert proved <= true


def check_bagging(dice: random.Random) -> None:
    """Two classes, every bag its own answer: no attack within the radius makes the wrong one as likely as the right one."""
    rows, drawn, wrong = dice.choice((3, 4, 5)), dice.choice((1, 2, 3)), dice.choice((0.0, 0.02, 0.05, 0.1, 0.3))
    right = {bag: dice.random() >= wrong for bag in itertools.product(range(rows), repeat=drawn)}
    share = sum(right.values()) / len(right)
    radius = bagging.radius(2 * share - 1, rows, drawn)
    for deleted, inserted in itertools.product(range(radius + 1), repeat=2):
        after, kept = rows - deleted + inserted, rows - deleted
        if after < 1 or max(rows, after) - kept > radius:
            continue
        for left in itertools.combinations(range(rows), kept):
            held = sum(right[bag] for bag in itertools.product(left, repeat=drawn)) / after**drawn
            assert held > 0.5, (rows, drawn, share, radius, deleted, inserted)


def check_collective(dice: random.Random) -> None:
    """Several test rows at once: the attacker chooses partitions, then each poisoned member says what hurts, row by row."""
    kinds, members, rows = dice.choice((2, 3)), dice.randint(2, 5), dice.randint(1, 5)
    offsets = sorted(dice.sample(range(members), dice.randint(1, min(2, members))))
    reach = [[(partition + offset) % members for offset in offsets] for partition in range(members)]
    answers, budget = [opinions(dice, members, kinds) for _ in range(rows)], dice.randint(0, members)
    most = 0
    for chosen in itertools.combinations(range(members), min(budget, members)):
        poisoned = {member for partition in chosen for member in reach[partition]}
        most = max(most, sum(turns(own, kinds, poisoned) for own in answers))
    told = Tally(answers_MR=torch.tensor(answers, dtype=torch.int32), wins_MKK=torch.zeros(rows, kinds, kinds, dtype=torch.int64))
    assert collective.turned(told, torch.tensor(reach), budget, nodes=1000) == most, (answers, reach, budget)


def turns(answers: list[int], kinds: int, poisoned: set[int]) -> bool:
    first = plurality(answers, kinds)
    return any(plurality([rival if member in poisoned else own for member, own in enumerate(answers)], kinds) != first for rival in range(kinds))


def check_partition_aggregation(dice: random.Random) -> None:
    kinds, members = dice.choice((2, 3, 4)), dice.randint(1, 6)
    answers = opinions(dice, members, kinds)
    radii, winners = dpa.radius(said(answers, kinds).votes_MK)
    assert int(winners[0]) == plurality(answers, kinds)
    assert int(radii[0]) == true_radius(answers, kinds, reach_of([[member] for member in range(members)])), answers


CHECKS = [check_partition_aggregation, check_collective, check_finite_aggregation, check_hash_bagging, check_run_off, check_bagging]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_attack_within_the_radius_changes_an_answer(check):
    dice = random.Random(0)
    for _ in range(500):
        check(dice)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_attack_within_the_radius_changes_an_answer_in_many_instances(check):
    dice = random.Random(1)
    for _ in range(20_000):
        check(dice)


def test_the_certificate_of_a_run_off_is_seldom_below_the_true_radius():
    dice = random.Random(3)
    pairs = [run_off_radii(dice) for _ in range(500)]
    assert sum(proved == true for proved, true in pairs) >= 495


VOTES = [(3, 2, 2), (3, 3, 2), (4, 3, 3), (5, 3, 3), (4, 4, 2), (5, 4, 4)]


@pytest.mark.parametrize(("winner", "votes"), [*itertools.product(range(3), VOTES), (0, (2, 2, 2)), (1, (3, 3, 3))])
def test_a_run_off_falls_when_two_classes_overtake_a_winner_that_no_one_beats_in_the_second_round(winner, votes):
    """Who does not put the winner first puts it second, so that it is cheapest to keep it out of the second round."""
    order = sorted(range(3), key=lambda kind: (kind != winner, kind))
    scores = [[2.0 * (kind == own) + 1.0 * (kind == winner) for kind in range(3)] for own, count in zip(order, votes, strict=True) for _ in range(count)]
    assert run_off(scores) == winner
    radii, winners = run_off_election.radius(tally(scores))
    assert int(winners[0]) == winner
    assert int(radii[0]) == true_run_off_radius(scores)


def test_with_a_spread_of_one_finite_aggregation_is_partition_aggregation():
    dice = random.Random(2)
    for _ in range(50):
        answers, reach = opinions(dice, 9, 4), torch.arange(9)[:, None]
        told = said(answers, 4)
        assert finite_aggregation.radius(told, reach)[0].tolist() == dpa.radius(told.votes_MK)[0].tolist()


def test_a_run_off_can_overturn_a_plurality():
    # two members prefer 0, one 1, one 2; in the second round of 0 and 1 the last prefers 1, and a tie goes to 0
    scores = [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]]
    told = tally(scores)
    assert told.votes_MK.tolist() == [[2, 2, 1]]
    assert [int(part[0]) for part in finalists(told.votes_MK, told.wins_MKK)] == [1, 0]


def test_clopper_pearson_bounds_of_bagging_are_those_of_scipy():
    margin = bagging.margin(np.array([[90, 10]]), alpha=0.1)
    lower = binomtest(90, 100, alternative="greater").proportion_ci(0.975).low
    upper = binomtest(10, 100, alternative="less").proportion_ci(0.975).high
    assert margin[0] == pytest.approx(lower - min(upper, 1 - lower))


def test_certain_votes_do_not_break_the_bounds_of_bagging():
    assert 0 < bagging.margin(np.array([[100, 0]]), alpha=0.001)[0] < 1


WORDS = {
    "finite_aggregation": ("defense=finite_aggregation", "defense.train.parts=3", "defense.train.spread=2"),
    "run_off_election": ("defense=run_off_election", "defense.train.parts=6"),
    "hash_bagging": ("defense=hash_bagging", "defense.train.groups=2", "defense.train.parts=3"),
    "ss_dpa": ("defense=ss_dpa", "defense.train.parts=6"),
}


@pytest.mark.parametrize("name", ["finite_aggregation", "run_off_election", "hash_bagging"])
def test_no_insertion_of_r_rows_beats_the_certificate_at_r(tiny, store, name):
    """Any r injected rows, mislabelled at will, leave at least the certified accuracy at r."""
    experiment = tiny(*WORDS[name])
    task, line = experiment.task, Line(experiment=experiment, store=store)
    record = run(experiment, store)
    certified = record.metrics["certified"]
    assert certified[0] == record.metrics["c_acc"]
    poison = task.train.take(torch.arange(1)).edit(
        torch.arange(1), inputs=task.test.inputs[:1], labels=(task.test.labels[:1] + 1) % 4, ids=-1 - torch.arange(1)
    )
    victim = line.defended.fit(task.train.append(poison), line.honest, line.root.child("fit"))
    c_acc = float((victim.scores(task.test.inputs).argmax(1) == task.test.labels).double().mean())
    assert c_acc >= (certified[1] if len(certified) > 1 else 0.0)


@pytest.mark.parametrize(("name", "touched"), [("finite_aggregation", 2), ("hash_bagging", 2), ("ss_dpa", 1)])
def test_a_flipped_label_reaches_as_many_members_as_the_certificate_counts(tiny, store, name, touched):
    line = Line(experiment=tiny(*WORDS[name]), store=store)
    data = line.experiment.task.train
    flipped = data.edit(torch.tensor([7]), labels=(data.labels[7:8] + 1) % 4)
    before, after = (line.defended.fit(rows, line.honest, line.root.child("fit")).members for rows in (data, flipped))
    differing = [place for place in before if any(not torch.equal(before[place].state()[key], after[place].state()[key]) for key in before[place].state())]
    assert len(differing) == touched


def test_an_edited_row_counts_twice(tiny, store):
    records = [run(tiny("defense=dpa", "defense.train.parts=6", f"defense.certify.change={change}"), store) for change in ("insert", "edit")]
    insert, edit = (record.metrics["certified"] for record in records)
    assert edit[: len(insert[::2])] == insert[::2]


def test_a_sorted_split_certifies_flips_alone(tiny, store):
    with pytest.raises(ConfigError, match="use flip"):
        run(tiny(*WORDS["ss_dpa"], "defense.certify.change=insert"), store)


def test_a_certificate_of_votes_refuses_what_has_none(tiny, store):
    line = Line(experiment=tiny(), store=store)
    victim = line.fit(line.learner, line.experiment.task.train, line.honest)
    with pytest.raises(ConfigError, match="makes an ensemble"):
        electorate(victim)


def test_the_collective_certificate_is_never_below_that_of_the_single_rows(tiny, store):
    record = run(tiny("defense=collective", "defense.train.parts=6", "defense.certify.radii=[0,1,2]"), store)
    alone, together = record.metrics["certified"], record.metrics["collective"]
    assert together["0"] == alone[0] == record.metrics["c_acc"]
    assert all(together[str(radius)] >= alone[radius] for radius in (1, 2) if radius < len(alone))


def test_a_search_cut_short_gives_a_bound_still():
    dice = random.Random(3)
    answers = torch.tensor([opinions(dice, 30, 3) for _ in range(60)], dtype=torch.int32)
    told = Tally(answers_MR=answers, wins_MKK=torch.zeros(60, 3, 3, dtype=torch.int64))
    reach = torch.arange(30)[:, None]
    short, whole = (collective.turned(told, reach, 4, nodes) for nodes in (1, 1000))
    assert whole <= short <= 60


@pytest.mark.parametrize(
    ("name", "certify", "says"),
    [
        ("finite_aggregation", "dpa.DpaCertificate", "one member each"),
        ("hash_bagging", "dpa.DpaCertificate", "does not partition its rows"),
        ("run_off_election", "dpa.DpaCertificate", "answers by run_off"),
        ("ss_dpa", "run_off_election.RunOffCertificate", "answers by plurality"),
        ("finite_aggregation", "hash_bagging.HashBaggingCertificate", "come in groups"),
    ],
)
def test_a_certificate_of_another_ensemble_is_refused(tiny, store, name, certify, says):
    with pytest.raises(ConfigError, match=says):
        run(tiny(*WORDS[name], f"defense.certify._target_=defenses.certify.{certify}"), store)


def rows(*labels: int) -> Dataset:
    return Dataset.of(torch.zeros(len(labels), 1), torch.tensor(labels), num_classes=3)


def test_bagging_proves_the_answer_that_is_right_by_the_margin_of_its_votes():
    votes, facts = [[60, 900, 40], [900, 60, 40], [340, 330, 330]], {"drawn": 5, "training_rows": 1000}
    certificate = bagging.BaggingCertificate(alpha=0.01)
    radii = certificate.certify(Told(votes, facts), rows(1, 1, 0)).tolist()
    lead = bagging.margin(np.array(votes), 0.01)
    assert radii == [bagging.radius(float(lead[0]), 1000, 5), -1, -1]
    assert radii[0] > 10
    with pytest.raises(ConfigError, match="draw their rows"):
        certificate.certify(Told(votes), rows(0, 1, 0))
    for alpha in (0.0, 1.0, 1.5):
        with pytest.raises(ConfigError, match="a chance in"):
            bagging.BaggingCertificate(alpha=alpha)


@pytest.mark.parametrize("counts", [[[90, 10, 0]], [[50, 50, 0]], [[1, 0, 0]], [[3, 3, 4]]])
def test_bounds_of_bagging_are_those_of_scipy_at_the_level_of_each(counts):
    lower, upper = bagging.bounds(np.array(counts), alpha=0.6)
    first, second, members = sorted(counts[0])[-1], sorted(counts[0])[-2], sum(counts[0])
    assert lower[0] == pytest.approx(binomtest(first, members, alternative="greater").proportion_ci(0.9).low)
    assert upper[0] == pytest.approx(min(binomtest(second, members, alternative="less").proportion_ci(0.9).high, 1 - lower[0]))


def test_bounds_of_several_rows_share_the_level_and_nothing_else():
    counts = np.array([[90, 10, 0], [20, 70, 10]])
    lower, upper = bagging.bounds(counts, alpha=0.6)
    assert lower == pytest.approx([binomtest(first, 100, alternative="greater").proportion_ci(0.95).low for first in (90, 70)])
    assert upper == pytest.approx(
        [min(binomtest(second, 100, alternative="less").proportion_ci(0.95).high, 1 - low) for second, low in zip((10, 20), lower, strict=True)]
    )


def test_a_member_that_says_the_rival_already_cannot_be_turned_to_it():
    answers = [0] * 8 + [1] * 4  # three groups of four: a row reaches one member of each, and of the third none helps class 1
    told = said(answers, 2)
    reached = [[[part, 4 + other, 8 + third] for part, other, third in itertools.product(range(4), repeat=3)]]
    assert int(hash_bagging.radius(told, 3)[0][0]) == 1
    assert true_radius(answers, 2, reached) == 1


@pytest.mark.parametrize(("size", "drawn"), [(30, 1), (30, 2), (30, 5), (200, 7)])
def test_bagging_holds_against_every_number_of_rows_and_no_further(size, drawn):
    for margin in (-0.1, 0.0, 0.05, 0.3, 0.6, 0.9, 0.999):

        def holds(changed: int, margin: float = margin) -> bool:
            after = range(size - changed, size + changed + 1)
            return all((then / size) ** drawn - 2 * ((max(size, then) - changed) / size) ** drawn + 1 - margin < 0 for then in after)

        true = -1 if margin <= 0 else max(r for r in range(size) if r == 0 or holds(r))
        assert bagging.radius(margin, size, drawn) == true


@pytest.mark.parametrize(("size", "drawn"), [(30, 1), (30, 2), (30, 3), (30, 5), (200, 7), (200, 30)])
def test_bagging_holds_from_the_margin_that_the_worst_number_of_rows_asks_for(size, drawn):
    for changed in range(1, size // 2):
        worst = max((then / size) ** drawn - 2 * ((max(size, then) - changed) / size) ** drawn + 1 for then in range(size - changed, size + changed + 1))
        assert bagging.holds(worst + 1e-9, size, drawn, changed)
        assert not bagging.holds(worst - 1e-9, size, drawn, changed)


def test_radii_in_partitions_become_radii_in_rows_rounded_down():
    votes = [[9, 2, 0], [9, 2, 0], [6, 5, 0]]
    told = {touched: dpa.DpaCertificate(change="insert").certify(Told(votes, touched=touched), rows(0, 1, 0)).tolist() for touched in (1, 2)}
    assert told == {1: [3, -1, 0], 2: [1, -1, 0]}


def test_one_attack_on_many_rows_leaves_a_share_of_all_of_them():
    votes = [[9, 2, 0], [9, 2, 0], [6, 5, 0], [0, 0, 11]]
    for touched, radii, told in ((1, (0, 1, 4), {0: 0.75, 1: 0.5, 4: 0.25}), (2, (0, 1, 2), {0: 0.75, 1: 0.5, 2: 0.25})):
        certificate = collective.CollectiveCertificate(change="insert", radii=radii, nodes=1000)
        assert certificate.together(Told(votes, touched=touched), rows(0, 1, 0, 2)) == told
    for radii, nodes in (((-1,), 5), ((1,), 0)):
        with pytest.raises(ConfigError, match="give 0 or more, and 1 or more"):
            collective.CollectiveCertificate(change="insert", radii=radii, nodes=nodes)
    assert collective.CollectiveCertificate(change="insert", radii=(), nodes=1).together(Told(votes), rows(0, 1, 0, 2)) == {}
