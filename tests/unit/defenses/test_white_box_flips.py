"""The white-box certificate of flipped labels against every relabelling of small training sets."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import torch

from defenses.certify import white_box_flips
from defenses.certify.knapsack import NEVER, cheapest, knapsack
from defenses.certify.white_box_flips import SLACK, WhiteBoxCertificate, flips, overtaking
from defenses.train.dpa import divided
from defenses.train.white_box_flips import Labelled, WhiteBoxFlips
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.learn.closed_form import KernelRidge, LinearRidge
from poisonbench.nets.fixed import Pixels
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

ROOT, ASKED = Key.root(100), 3
ANY = WhiteBoxCertificate(to=None)
CPU = {"features": Pixels(), "device": "cpu"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A small instance: the ensemble, its rows, and rows to ask about."""

    recipe: WhiteBoxFlips
    data: Dataset
    asked: torch.Tensor

    def fit(self):
        return self.recipe(None).fit(self.data, None, ROOT)

    def certified(self, to: int | None = None) -> list[int]:
        victim = self.fit()
        answered = Dataset.of(self.asked, victim.scores(self.asked).argmax(1), num_classes=self.data.num_classes)
        return WhiteBoxCertificate(to=to).certify(victim, answered).tolist()


def case(dice: random.Random, parts: int, rows: int, kinds: int, learner: str) -> Case:
    generator = torch.Generator().manual_seed(dice.getrandbits(30))
    ridge, mirror, split = dice.choice((0.03, 0.3, 1.0)), dice.random() < 0.3, dice.choice(("sorted", "salted"))
    kernel, linear = KernelRidge(gamma=2.0, ridge=ridge, mirror=mirror, **CPU), LinearRidge(ridge=ridge, mirror=mirror, **CPU)
    member = {"ridge": linear, "kernel_ridge": kernel}[learner]
    labels = torch.randint(0, kinds, (rows,), generator=generator)
    side = dice.choice((2, 3))  # more rows than pixels, or fewer
    inputs = torch.randint(0, 100, (rows, 1, side, side), generator=generator)
    inputs[:, 0, 0, :] += (60 * labels)[:, None]  # labels that can be learned, so that radii differ
    asked = inputs[torch.randint(0, rows, (ASKED,), generator=generator)] + torch.randint(0, 30, (ASKED, 1, side, side), generator=generator)
    data = Dataset.of(inputs.to(torch.uint8), labels, num_classes=kinds)
    return Case(recipe=WhiteBoxFlips(parts=parts, member=member, split=split), data=data, asked=asked.to(torch.uint8))


def featured(inputs: torch.Tensor) -> np.ndarray:
    flat = inputs.flatten(1).double()
    return (flat / flat.norm(dim=1, keepdim=True)).numpy()


def answers_under(one: Case, labellings: np.ndarray) -> np.ndarray:
    """(L, M), the answers under each of L labellings of the rows in the order of the parts: every system is solved again, in numpy."""
    kinds, member = one.data.num_classes, one.recipe.member
    votes, at = np.zeros((len(labellings), ASKED, kinds), dtype=int), 0
    asked = featured(one.asked)
    for part in parts_of(one):
        if not len(part):
            votes[:, :, 0] += 1
            continue
        targets = np.eye(kinds)[labellings[:, at : at + len(part)]]
        at += len(part)
        own = featured(part.inputs)
        if member.mirror:
            own, targets = np.concatenate([own, featured(part.inputs.flip(-1))]), np.concatenate([targets, targets], 1)
        if isinstance(member, KernelRidge):
            between = lambda one, other: np.exp(-2.0 * ((one[:, None] - other) ** 2).sum(2))  # noqa: E731
            weights = np.linalg.solve(between(own, own) + member.ridge * np.eye(len(own)), between(own, asked))
        else:
            weights = own @ np.linalg.solve(own.T @ own + member.ridge * np.eye(own.shape[1]), asked.T)
        scores = np.einsum("jm,ljk->lmk", weights, targets)
        votes += np.eye(kinds, dtype=int)[scores.argmax(2)]
    return votes.argmax(2)


def parts_of(one: Case) -> list[Dataset]:
    return divided(one.data, one.recipe.parts, ROOT.child("parts"), one.recipe.split)


def true_radii(one: Case, to: int | None = None) -> list[int]:
    """The largest r such that no relabelling of r rows changes an answer, by trying every labelling."""
    before = np.concatenate([part.labels.numpy() for part in parts_of(one)])
    choices = [range(one.data.num_classes) if to is None else sorted({own, to}) for own in before.tolist()]
    labellings = np.array(list(itertools.product(*choices)))
    changed = (labellings != before).sum(1)
    answers = answers_under(one, labellings)
    first = answers_under(one, before[None])[0]
    fewest_flips = [changed[answers[:, row] != first[row]].min(initial=len(before) + 1) for row in range(ASKED)]
    return [int(found) - 1 for found in fewest_flips]


def compared(count: int, seed: int, learner: str, parts: int) -> tuple[int, int, int]:
    """How many radii equal the true ones, how many there are, and how many of them are above 0; none may be larger than the true one."""
    dice, equal, found, above = random.Random(f"{learner}{parts}{seed}"), 0, 0, 0
    for _ in range(count):
        kinds = dice.choice((2, 3))
        rows = dice.randint(max(3, parts), 9 if kinds == 2 else 6)
        one, to = case(dice, parts, rows, kinds, learner), dice.choice((None, None, 0, 1))
        told, true = one.certified(to), true_radii(one, to)
        assert all(mine <= yours for mine, yours in zip(told, true, strict=True)), (one, to, told, true)
        if parts == 1 or kinds == 2:
            assert told == true, (one, to)
        equal, found, above = equal + sum(map(int.__eq__, told, true)), found + ASKED, above + sum(mine > 0 for mine in told)
    return equal, found, above


KINDS = [(learner, parts) for learner in ("ridge", "kernel_ridge") for parts in (1, 2, 3)]


@pytest.mark.parametrize(("learner", "parts"), KINDS)
def test_the_radius_is_that_of_every_relabelling(learner, parts):
    """100 instances each, of three answers: equal with one part or two classes, never larger, and seldom smaller (3 % of 8,400)."""
    equal, found, above = compared(100, 100, learner, parts)
    assert found == 300
    assert above > 60
    assert equal >= 0.93 * found


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "parts"), KINDS)
def test_the_radius_is_that_of_every_relabelling_in_many_instances(learner, parts):
    equal, found, _ = compared(3400, 101, learner, parts)
    assert equal >= 0.95 * found


@pytest.mark.parametrize("learner", ["ridge", "kernel_ridge"])
def test_no_relabelling_of_two_of_fourteen_rows_beats_a_radius_of_two_and_one_more_does(learner):
    """More rows than can be relabelled in every way: all relabellings of up to three rows, of three classes."""
    dice, beaten = random.Random(102), 0
    for _ in range(8):
        one = case(dice, 2, 14, 3, learner)
        told = one.certified()
        before = np.concatenate([part.labels.numpy() for part in parts_of(one)])
        first = answers_under(one, before[None])[0]
        for count in (1, 2, 3):
            tried = []
            for places in itertools.combinations(range(14), count):
                for steps in itertools.product((1, 2), repeat=count):
                    other = before.copy()
                    other[list(places)] = (other[list(places)] + steps) % 3
                    tried.append(other)
            fell = (answers_under(one, np.array(tried)) != first).any(0)
            assert not any(fell[row] and told[row] >= count for row in range(ASKED))
            beaten += sum(bool(fell[row]) and told[row] == count - 1 for row in range(ASKED))
    assert beaten > 10


def one_hot(labels: list[int], kinds: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), kinds).double()


def led(weights: torch.Tensor, own: torch.Tensor, answer: int, slack: float = 0.0, to: int | None = None) -> list[int]:
    """The flips after which each class leads, from the influences of one test row and one-hot labels."""
    scores = weights @ own
    return overtaking(weights, own.argmax(1), torch.tensor([answer]), scores[:, [answer]] - scores - slack, to)[0].tolist()


def test_a_case_by_hand():
    """Scores of the four rows' labels 0, 0, 1, 2 with influences 4, 2, 3, -1 are 6, 3 and -1: class 1 is 3 behind, class 2 is 7 behind.

    Row 0 gives 8 to whatever class it becomes, so that one flip is enough for both. Where labels may only be set to 2, class 1 gains 4 of 3 from row
    0, and class 2 gains 8 of 7. Where they may only be set to 0, class 1 gains 1 of 3, as row 3 takes from class 0, and class 2 nothing but 1 + 1 of 7
    from row 3.
    """
    weights, labels = torch.tensor([[4.0, 2.0, 3.0, -1.0]]).double(), one_hot([0, 0, 1, 2], 3)
    assert {to: led(weights, labels, 0, to=to) for to in (None, 0, 2)} == {None: [0, 1, 1], 0: [0, NEVER, NEVER], 2: [0, 1, 1]}
    # scores 10, 1 and -1: class 1 is 9 behind and gains 8, 4, 0, 1 and 8; class 2 is 11 behind and gains 8, 4, 1, 2 and 8
    assert led(torch.tensor([[4.0, 2.0, 1.0, -1.0, 4.0]]).double(), one_hot([0, 0, 1, 2, 0], 3), 0) == [0, 2, 2]


@pytest.mark.parametrize(("answer", "rival", "needed"), [(0, 1, 2), (1, 0, 1)])
def test_without_a_slack_a_tie_goes_to_the_smaller_class(answer, rival, needed):
    """Four rows of the answer, of influence 1, and two of the rival: one flip makes a tie, which only the smaller class wins."""
    weights, labels = torch.ones(1, 6).double(), one_hot([answer] * 4 + [rival] * 2, 2)
    assert led(weights, labels, answer)[rival] == needed
    assert led(weights, labels, answer, SLACK)[rival] == 1  # a tie of scores is lost, whoever is the smaller class


def test_ties_of_whole_numbers_are_those_of_every_relabelling():
    """Influences are small whole numbers, so that half of all sums tie and none is rounded."""
    dice, ties = random.Random(103), 0
    for _ in range(300):
        kinds, rows = dice.choice((2, 3)), dice.randint(2, 5)
        weights, labels = [dice.randint(-2, 3) for _ in range(rows)], [dice.randrange(kinds) for _ in range(rows)]

        def answered(labels, weights=weights, kinds=kinds) -> tuple[int, bool]:
            scores = [sum(weight for weight, own in zip(weights, labels, strict=True) if own == kind) for kind in range(kinds)]
            return scores.index(max(scores)), scores.count(max(scores)) > 1

        answer, tied = answered(labels)
        others = [other for other in itertools.product(range(kinds), repeat=rows) if answered(other)[0] != answer]
        true = min((sum(map(int.__ne__, other, labels)) for other in others), default=NEVER)
        told = led(torch.tensor([weights]).double(), one_hot(labels, kinds), answer)
        assert min(told[kind] for kind in range(kinds) if kind != answer) == true
        ties += tied or any(answered(other)[1] for other in others if sum(map(int.__ne__, other, labels)) == true)
    assert ties > 100


@pytest.mark.parametrize("to", [None, 1, 2])
@pytest.mark.parametrize("size", [3.0, 60.0])  # of a lead: a few flips, or nearly all
def test_the_flips_are_the_same_however_many_influences_are_tried_first(monkeypatch, to, size):
    generator = torch.Generator().manual_seed(int(size))
    weights, labels = torch.randn(20, 300, generator=generator).double(), torch.randint(0, 4, (300,), generator=generator)
    answers, needs = torch.arange(20) % 4, size * torch.rand(20, 4, generator=generator).double() * 4
    wanted = overtaking(weights, labels, answers, needs, to)
    for first in (1, 3, 50):
        monkeypatch.setattr(white_box_flips, "FIRST", first)
        assert torch.equal(overtaking(weights, labels, answers, needs, to), wanted)
    assert wanted.max() > (60 if size > 3 else 1)


def test_the_knapsack_is_that_of_dynamic_programming():
    dice, checked = random.Random(104), 0
    for _ in range(2000):
        members, most = dice.randint(1, 7), dice.choice((3, 8, 30))
        one = [dice.choice((math.inf, *range(1, most))) for _ in range(members)]
        two = [cost + dice.choice((0, 1, 2, dice.randrange(most), math.inf)) for cost in one]
        need = dice.randint(1, 2 * members)
        best = [0.0] + [math.inf] * need
        for first, both in zip(one, two, strict=True):
            best = [min(best[votes], first + best[max(0, votes - 1)], both + best[max(0, votes - 2)]) if votes else 0.0 for votes in range(need + 1)]
        told = knapsack(torch.tensor([one]).double(), torch.tensor([two]).double(), torch.tensor([need]))
        assert float(told[0]) == best[need], (one, two, need)
        checked += math.isfinite(best[need])
    assert checked > 800


def test_votes_are_bought_where_they_are_cheapest_and_ties_of_votes_go_to_the_smaller_class():
    """Members answer 0, 0, 0, 1 and 2; class 1 needs 3 votes more to win, class 2 as many."""
    never = NEVER
    flips_MRK = torch.tensor([[[0, 5, 9], [0, 7, 8], [0, 9, 2], [4, 0, 4], [9, 3, 0]]], dtype=torch.int32)
    answers = torch.tensor([[0, 0, 0, 1, 2]], dtype=torch.int32)
    # class 1: of 3, 1, 1 votes it lacks 2, and one more to win: 5 for two votes, 2 or 3 for one. Class 2: 2 for two votes, 4 for one.
    assert cheapest(flips_MRK, answers)[0].tolist() == [6.0]
    # answer 1 of votes 1, 2, 0: class 0 lacks one vote and wins the tie
    less = torch.tensor([[[0, 1, never], [6, 0, 9], [8, 0, 7]]], dtype=torch.int32)
    told, winners = cheapest(less, torch.tensor([[0, 1, 1]], dtype=torch.int32))
    assert (told.tolist(), winners.tolist()) == ([6.0], [1])


@pytest.mark.parametrize("learner", ["ridge", "kernel_ridge"])
def test_with_members_of_one_row_the_radius_is_that_of_the_vote(learner):
    """A member of one row answers with its label, so one flip turns one vote: what SS-DPA counts."""
    from defenses.certify.ss_dpa import SsDpaCertificate

    for number in range(20):
        one = case(random.Random(number), 7, 7, 3, learner)
        one = dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, split="sorted"))
        victim = one.fit()
        answered = Dataset.of(one.asked, victim.scores(one.asked).argmax(1), num_classes=3)
        assert ANY.certify(victim, answered).tolist() == SsDpaCertificate().certify(victim, answered).tolist()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("side", [2, 5])  # more rows than pixels, or fewer
def test_members_answer_as_the_learner_does(mirror, side):
    generator = torch.Generator().manual_seed(side)
    data = Dataset.of(torch.randint(0, 256, (20, 1, side, side), dtype=torch.uint8, generator=generator), torch.arange(20) % 3, num_classes=3)
    asked = torch.randint(0, 256, (9, 1, side, side), dtype=torch.uint8, generator=generator)
    for member in (LinearRidge(ridge=0.5, mirror=mirror, **CPU), KernelRidge(gamma=2.0, ridge=0.5, mirror=mirror, **CPU)):
        victim = Labelled(member=member).fit(data, None, ROOT)
        assert victim.scores(asked).allclose(member.fit(data, None, ROOT).scores(asked), atol=2e-5)
        influence = member.influence(data.inputs).of(member.featured(asked))
        assert (influence @ (torch.nn.functional.one_hot(data.labels, 3).double() - 1 / 3)).allclose(victim.asked(member.featured(asked)), atol=1e-12)


def test_a_member_whose_scores_are_not_known_well_enough_is_refused():
    one = case(random.Random(0), 1, 6, 2, "ridge")
    (member,) = one.fit().members.values()
    off = dataclasses.replace(member, solution=member.solution + SLACK)
    with pytest.raises(ConfigError, match="use a larger ridge"):
        flips(off, off.learner.member.featured(one.asked), torch.zeros(ASKED, dtype=torch.int64), None)


def test_a_run_certifies_as_many_rows_as_it_gets_right_and_more_flips_than_votes(tiny, store):
    words = ("attack=none", "learner=ridge", "defense.train.parts=5")
    white = run(tiny(*words, "defense=white_box_flips"), store)
    votes = run(tiny(*words, "defense=ss_dpa", "+learner@defense.train.member=ridge"), store)
    assert white.metrics["radius_unit"] == votes.metrics["radius_unit"] == "flipped labels"
    assert white.metrics["certified"][0] == white.metrics["c_acc"] == votes.metrics["c_acc"]
    assert white.metrics["member_c_acc"] == votes.metrics["member_c_acc"]
    assert white.metrics["median_radius"] > votes.metrics["median_radius"]
    assert all(one >= two for one, two in zip(white.metrics["certified"], votes.metrics["certified"][:-1], strict=False))


@pytest.mark.parametrize("learner", ["ridge", "kernel_ridge"])
def test_with_one_part_the_flips_that_weigh_most_change_an_answer_at_one_more_than_its_radius_and_not_before(tiny, store, learner):
    words = ("attack=none", "defense=white_box_flips", "defense.train.parts=1", f"learner@defense.train.member={learner}")
    experiment = tiny(*words)
    data, test, line = experiment.task.train, experiment.task.test.take(torch.arange(12)), Line(experiment=experiment, store=store)
    victim = line.fit(line.defended, data, line.honest)
    before = victim.scores(test.inputs).argmax(1)
    radii = experiment.defense.certify.certify(victim, test.with_columns(test.columns | {"labels": before}))
    member = line.defended.member.member
    weights = member.influence(data.inputs).of(member.featured(test.inputs))
    assert radii.min() > 0
    for row, (answer, radius) in enumerate(zip(before.tolist(), radii.tolist(), strict=True)):
        answers = {}
        for count in (radius, radius + 1):
            answers[count] = [attacked(line, data, weights[row], (answer, rival, count), test.inputs[[row]]) for rival in range(4)]
        assert answers[radius] == [answer] * 4
        assert answers[radius + 1] != [answer] * 4


def attacked(line: Line, data: Dataset, weights: torch.Tensor, wanted: tuple[int, int, int], asked: torch.Tensor) -> int:
    """The answer after flips of the rows that help a rival most."""
    answer, rival, count = wanted
    signs = (data.labels == rival).double() - (data.labels == answer).double()
    rows = (weights.abs() - weights * signs).argsort(descending=True)[:count]
    flipped = data.edit(rows, labels=torch.where(weights[rows] > 0, rival, answer))
    return int(line.defended.fit(flipped, line.honest, Key.root(0)).scores(asked).argmax(1))


def test_a_victim_comes_back_from_its_state(tiny, store):
    experiment = tiny("attack=none", "defense=white_box_flips", "defense.train.parts=3")
    line, test = Line(experiment=experiment, store=store), experiment.task.test
    told = [experiment.defense.certify.certify(line.fit(line.defended, experiment.task.train, line.honest), test).tolist() for _ in range(2)]
    assert told[0] == told[1]
    assert max(told[0]) > 0


def test_only_right_answers_are_proved():
    one = case(random.Random(1), 1, 6, 3, "ridge")
    victim = one.fit()
    answers = victim.scores(one.asked).argmax(1)
    assert ANY.certify(victim, Dataset.of(one.asked, (answers + 1) % 3, num_classes=3)).tolist() == [-1] * ASKED


def test_where_no_flips_change_an_answer_the_radius_is_the_number_of_rows():
    """Rows far from each other: a picture equal to one of them has positive influences alone, so labels that become its answer only help it."""
    kernel = KernelRidge(gamma=200.0, ridge=0.01, mirror=False, **CPU)
    data = Dataset.of((255 * torch.eye(6)).view(6, 1, 2, 3).to(torch.uint8), torch.arange(6) % 2, num_classes=2)
    victim = WhiteBoxFlips(parts=1, member=kernel, split="sorted")(None).fit(data, None, ROOT)
    assert [WhiteBoxCertificate(to=to).certify(victim, data).tolist() for to in (0, 1)] == [[6, 0] * 3, [0, 6] * 3]


def test_a_picture_that_no_label_weighs_for_has_a_radius_of_zero():
    """The features of a black picture are 0: its scores tie, and ties of scores count as lost."""
    victim = case(random.Random(2), 1, 6, 2, "ridge").fit()
    black = Dataset.of(torch.zeros(1, *victim.members[0].inputs.shape[1:], dtype=torch.uint8), torch.tensor([0]), num_classes=2)
    assert ANY.certify(victim, black).tolist() == [0]


def test_a_learner_that_is_not_linear_in_its_labels_is_named(tiny, store):
    record = run(tiny("attack=none", "defense=white_box_flips", "defense.train.member=null"), store)
    assert (record.status, record.reason) == (
        "skipped",
        "defense=white_box_flips needs members that are linear in their labels; use learner=ridge or kernel_ridge instead of Central",
    )


def test_members_that_keep_no_labels_are_refused(tiny, store):
    words = ("attack=none", "learner=ridge", "defense=ss_dpa", "defense.train.parts=3", "~defense.certify.change", "+defense.certify.to=null")
    with pytest.raises(ConfigError, match="is the certificate of defense=white_box_flips"):
        run(tiny(*words, "defense.certify._target_=defenses.certify.white_box_flips.WhiteBoxCertificate"), store)


def test_a_filter_before_it_voids_the_proof(tiny, store):
    record = run(tiny("defense=[spectral,white_box_flips]"), store)
    assert record.status == "skipped"
    assert record.reason.startswith("defense.certify (WhiteBoxCertificate) is not valid together with defense.sanitize (SpectralSignatures)")


@pytest.mark.parametrize(
    ("word", "says"), [("defense.certify.to=-1", "give a class"), ("defense.certify.to=4", "from 0 to 3"), ("defense.train.parts=0", "1 or more")]
)
def test_values_out_of_range_are_refused(tiny, store, word, says):
    with pytest.raises(ConfigError, match=says):
        run(tiny("attack=none", "defense=white_box_flips", word), store)


def test_more_rows_than_a_kernel_can_hold_are_refused():
    kernel = KernelRidge(gamma=2.0, ridge=0.5, mirror=True, **CPU)
    kernel.check_influence(10_000)
    with pytest.raises(ConfigError, match="20002 rows in one part"):
        kernel.check_influence(10_001)
