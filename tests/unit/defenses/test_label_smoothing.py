"""Smoothing over labels against every redrawing of every flipped set of labels."""

import itertools
import math

import pytest
import torch

from defenses.certify.label_smoothing import error, radius
from defenses.train.label_smoothing import LabelSmoothing, SmoothedVictim
from poisonbench.core.errors import ConfigError
from poisonbench.nets.fixed import Pixels
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line


def victim(rows: int, kinds: int, flip: float, seed: int, *, agreed: bool = False) -> tuple[SmoothedVictim, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    recipe = LabelSmoothing(flip=flip, ridge=0.3, features=Pixels())
    labels = torch.randint(0, 1 if agreed else kinds, (rows,), generator=dice)
    inputs = torch.rand(rows, 6, generator=dice) + 3 * torch.nn.functional.one_hot(labels, 6)
    return SmoothedVictim(recipe=recipe, inputs=inputs, labels=labels, kinds=kinds, facts={}), inputs[:3] + 0.1


def chances(influence_N: torch.Tensor, labels: tuple[int, ...], kinds: int, flip: float) -> list[float]:
    """The probability that each class wins alone, over every redrawing of the labels."""
    drawn = torch.tensor(list(itertools.product(range(kinds), repeat=len(labels))))
    chance = torch.where(drawn == torch.tensor(labels), 1 - flip, flip / (kinds - 1)).double().prod(1)
    scores = torch.stack([((drawn == kind) * influence_N).sum(1) for kind in range(kinds)], 1)
    alone = (scores >= scores.max(1, keepdim=True).values - 1e-12).sum(1) == 1
    return [float(chance[alone & (scores.argmax(1) == kind)].sum()) for kind in range(kinds)]


CASES = [(5, 2, 0.05, False), (7, 2, 0.2, False), (5, 3, 0.05, False), (6, 3, 0.15, False), (11, 2, 0.1, True), (9, 2, 0.02, True), (8, 3, 0.05, True)]


@pytest.mark.parametrize(("rows", "kinds", "flip", "agreed"), CASES)
@pytest.mark.parametrize("seed", range(4))
def test_no_flips_within_the_radius_take_the_majority_away(rows, kinds, flip, agreed, seed):
    smoothed, inputs = victim(rows, kinds, flip, seed, agreed=agreed)
    influence_MN, answers = smoothed.influence(inputs), smoothed.scores(inputs).argmax(1)
    wrong = error(influence_MN, answers, smoothed)
    radii = radius(wrong, flip, kinds)
    labels = tuple(smoothed.labels.tolist())
    for row, answer in enumerate(answers.tolist()):
        exact = chances(influence_MN[row], labels, kinds, flip)
        assert 1 - exact[answer] <= float(wrong[row]) + 1e-9  # Chernoff never promises too much
        for flips in range(int(radii[row]) + 1):
            for places in itertools.combinations(range(rows), flips):
                for values in itertools.product(range(kinds), repeat=flips):
                    other = list(labels)
                    for place, value in zip(places, values, strict=True):
                        other[place] = value
                    assert chances(influence_MN[row], tuple(other), kinds, flip)[answer] > 0.5


def test_with_two_classes_the_radius_is_that_of_the_paper():
    wrong, flip = torch.tensor([1e-6, 1e-3, 0.2, 0.49, 0.5], dtype=torch.float64), 0.1
    paper = (4 * wrong * (1 - wrong)).log() / (2 * (1 - 2 * flip) * math.log(flip / (1 - flip)))
    assert radius(wrong, flip, 2).tolist() == [math.ceil(limit) - 1 for limit in paper.tolist()[:4]] + [-1]


def test_expected_scores_are_those_of_many_redrawings():
    smoothed, inputs = victim(6, 3, 0.2, 0)
    influence_MN = smoothed.influence(inputs)
    mean = torch.zeros(3, 3, dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=6):
        chance = math.prod(0.8 if one == own else 0.1 for one, own in zip(drawn, smoothed.labels.tolist(), strict=True))
        mean += chance * influence_MN @ torch.nn.functional.one_hot(torch.tensor(drawn), 3).double()
    assert smoothed.scores(inputs).double().allclose(mean, atol=1e-6)


def test_a_run_certifies_flips_and_never_more_than_it_gets_right(tiny, store):
    record = run(tiny("attack=label_flip", "defense=label_smoothing"), store)
    assert record.status == "done"
    assert record.metrics["certified"][0] <= record.metrics["c_acc"]


def test_only_right_answers_are_proved(tiny, store):
    experiment = tiny("defense=label_smoothing")
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.defended, experiment.task.train, line.combine(experiment.defense.aggregate), label="defended")
    test = experiment.task.test
    answers = victim.scores(test.inputs).argmax(1)
    right, wrong = (test.with_columns(test.columns | {"labels": labels}) for labels in (answers, (answers + 1) % test.num_classes))
    proved = experiment.defense.certify.certify(victim, right)
    assert proved.tolist() == radius(error(victim.influence(test.inputs), answers, victim), victim.recipe.flip, victim.kinds).tolist()
    assert (proved >= 0).any()
    assert experiment.defense.certify.certify(victim, wrong).tolist() == [-1] * len(test)


@pytest.mark.parametrize(("words", "says"), [(("defense.train.flip=0",), "a chance in"), (("defense.train.flip=0.8",), "carry no information")])
def test_chances_that_mean_nothing_are_refused(tiny, store, words, says):
    with pytest.raises(ConfigError, match=says):
        run(tiny("defense=label_smoothing", *words), store)


def test_the_cases_above_prove_something():
    proved = 0
    for (rows, kinds, flip, agreed), seed in itertools.product(CASES, range(4)):
        smoothed, inputs = victim(rows, kinds, flip, seed, agreed=agreed)
        answers = smoothed.scores(inputs).argmax(1)
        proved += int((radius(error(smoothed.influence(inputs), answers, smoothed), flip, kinds) > 0).sum())
    assert proved >= 5


def expected_exponential(smoothed: SmoothedVictim, influence_N: torch.Tensor, answer: int, rival: int, tilt: float) -> float:
    """E exp(t (score of the rival - score of the answer)) over redrawn labels, one label after the other."""
    product, kinds, flip = 1.0, smoothed.kinds, smoothed.recipe.flip
    for weight, own in zip(influence_N.tolist(), smoothed.labels.tolist(), strict=True):
        chance = [1 - flip if drawn == own else flip / (kinds - 1) for drawn in range(kinds)]
        product *= sum(one * math.exp(tilt * weight * ((drawn == rival) - (drawn == answer))) for drawn, one in enumerate(chance))
    return product


@pytest.mark.parametrize(("rows", "kinds", "flip"), [(6, 2, 0.1), (7, 3, 0.05), (9, 4, 0.2)])
def test_the_bound_is_the_best_of_chernoffs_over_all_exponents(rows, kinds, flip):
    smoothed, inputs = victim(rows, kinds, flip, 5)
    influence_MN, answers = smoothed.influence(inputs), smoothed.scores(inputs).argmax(1)
    told = error(influence_MN, answers, smoothed)
    for row, answer in enumerate(answers.tolist()):
        size = float(influence_MN[row].abs().max())
        tilts = [tilt / size for tilt in torch.logspace(-3, 2, 60, dtype=torch.float64).tolist()]
        bound = 0.0
        for rival in (kind for kind in range(kinds) if kind != answer):
            bound += min(1.0, *(expected_exponential(smoothed, influence_MN[row], answer, rival, tilt) for tilt in tilts))
        assert float(told[row]) == pytest.approx(min(1.0, bound), rel=1e-9)


@pytest.mark.parametrize(("kinds", "flip"), [(2, 0.1), (3, 0.05), (10, 0.3)])
def test_one_flip_moves_the_labels_by_their_divergence(kinds, flip):
    before = [1 - flip] + [flip / (kinds - 1)] * (kinds - 1)
    after = [flip / (kinds - 1), 1 - flip] + [flip / (kinds - 1)] * (kinds - 2)
    step = sum(one * math.log(one / other) for one, other in zip(before, after, strict=True))
    for flips in (1, 2, 5):
        room = flips * step  # of -log(4 p (1 - p)) / 2, just above and just below
        for more, held in ((1e-6, flips), (-1e-6, flips - 1)):
            product = math.exp(-2 * (room + more))  # 4 p (1 - p)
            wrong = product / 2 / (1 + math.sqrt(1 - product))
            assert radius(torch.tensor([wrong], dtype=torch.float64), flip, kinds).tolist() == [held]
