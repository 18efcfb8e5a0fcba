"""Influence on one test row, against retraining: without a row, and with a row that is moved."""

import dataclasses

import numpy as np
import pytest
import torch

from attacks.availability.beta_poisoning import BetaPoisoning, density
from attacks.convex import Box, Points, Scale
from attacks.targeted.influence_poison import InfluencePoison, influence
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.stages import Line
from tests.unit.attacks.test_convex import LOSSES, problem, retrained, table
from tests.unit.attacks.worlds import world


def target() -> Points:
    return Points(points=torch.tensor([[0.4, -0.3, 0.2]], dtype=torch.float64), signs=torch.tensor([-1.0], dtype=torch.float64))


def loss(training, theta) -> float:
    return float(training.model.loss.value(target().margins(torch.as_tensor(theta))).sum())


@pytest.mark.parametrize("kind", LOSSES)
def test_influence_is_the_change_of_the_targets_loss_when_a_row_is_moved_and_the_model_retrained(kind):
    rows, step = table(), 1e-4
    training = problem(kind, rows)
    found, whole = influence(training, target()), training.clean
    for row, column in ((0, 0), (7, 2), (30, 1), (59, 2)):
        values = []
        for sign in (1, -1):
            shift = torch.zeros_like(whole.points)
            shift[row, column] = sign * step
            moved = whole.moved(whole.points + shift)
            rest, one = rows.take(torch.arange(len(rows)) != row), moved.take(torch.tensor([row]))
            scale, own = Scale.of(rows), Scale.of(rest)
            raw = dataclasses.replace(one, points=(one.points * scale.unit + scale.centre - own.centre) / own.unit)
            there = retrained(kind, rest, raw)  # on the scale of the rest
            slopes = there[:-1] / own.unit.numpy()
            bias = there[-1] + slopes @ (scale.centre - own.centre).numpy()
            values.append(loss(training, np.append(slopes * scale.unit.numpy(), bias)))
        assert found[row, column] == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-3, abs=1e-6)


def test_influence_predicts_the_change_without_a_row():
    """Leave-one-out retraining of 400 rows; the first order is within 10 % of the change and orders the rows alike."""
    training = problem("logistic", table(400))
    whole, none = training.clean, training.clean.take(torch.arange(0))
    theta = training.solved(none)
    adjoint = training.inverse(theta, none, training.pull(theta, target()))
    push = whole.signs * training.model.loss.slope(whole.margins(theta))
    predicted = push * (whole.points @ adjoint[:-1] + adjoint[-1])  # the change when the weight of a row falls from 1 to 0
    places = predicted.abs().argsort(descending=True)[:60:3]
    fixed = training.moments(none)
    actual = []
    for place in places:
        less = training.without(place[None])
        object.__setattr__(less, "moments", lambda added: fixed)  # the penalty of all rows: one row less standardises in another way
        actual.append(loss(training, less.solved(none, theta)) - loss(training, theta))
    np.testing.assert_allclose(predicted[places].numpy(), actual, rtol=0.1)
    assert np.corrcoef(predicted[places].numpy(), actual)[0, 1] > 0.999


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_move_until_the_target_has_the_wished_label(kind):
    training = problem(kind, table())
    chosen = torch.arange(12)
    starts, rest = training.clean.take(chosen), training.without(chosen)
    far = Points(points=torch.tensor([[0.7, 0.7, 0.7]], dtype=torch.float64), signs=torch.tensor([-1.0], dtype=torch.float64))
    assert far.margins(rest.solved(starts)) < 0
    box = Box(low=torch.full_like(starts.points, -3.0), high=torch.full_like(starts.points, 3.0))
    moved = InfluencePoison(wish="random", steps=20, step_size=0.2).moved(rest, starts, far, box)
    assert far.margins(rest.solved(starts.moved(moved))) > 0
    assert moved.abs().max() <= 3.0


def test_labels_stay_and_a_limit_holds(tiny, store):
    experiment = tiny("attack=influence_poison", "threat.budget.norm=linf", "threat.budget.limit=0.01", "threat.budget.relabel=false")
    clean, poisoned = experiment.task.train, Line(experiment=experiment, store=store).struck()
    assert torch.equal(poisoned.data.labels, clean.labels)
    assert 0 < (poisoned.data.inputs - clean.inputs).abs().max() <= 0.0101


def test_weights_that_are_known_to_be_best_are_found():
    """All rows of a class at one point: the densest place is that point, and its only mixtures have weights that sum to 1."""
    place = torch.tensor([2.0, -1.0], dtype=torch.float64)
    dense = place + 1e-3 * torch.randn(20, 2, generator=Key.root(0).torch(), dtype=torch.float64)
    box = Box(low=torch.full((4, 2), -9.0, dtype=torch.float64), high=torch.full((4, 2), 9.0, dtype=torch.float64))
    attack = BetaPoisoning(source=0, target=1, prototypes=5, steps=500, lr=0.02, rows=100)
    spread = dense + torch.tensor([[1.0, 0.0]]) * torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    found = attack.mixed(spread, box, Key.root(1))
    width = torch.cdist(spread, spread).mean()
    assert (density(found, spread, width) > 0.97 * density(place[None], spread, width)).all()


def test_mixtures_have_the_label_of_another_class():
    rows = table(100)
    poisoned = BetaPoisoning(source=0, target=1, prototypes=5, steps=50, lr=0.05, rows=30).poison(world(rows, rate=0.1, inject=True), Key.root(0))
    new, scale = poisoned.data.take(poisoned.mask), Scale.of(rows)
    assert (new.labels == 1).all()
    like, own, mixed = (scale.points(values) for values in (rows.inputs[rows.labels == 0], rows.inputs[rows.labels == 1], new.inputs))
    width = torch.cdist(like, like).mean()
    assert (density(mixed, like, width) > density(mixed, own, width)).all()


@pytest.mark.parametrize(
    "plan",
    [
        lambda: BetaPoisoning(source=0, target=1, prototypes=1, steps=1, lr=0.1, rows=10),
        lambda: BetaPoisoning(source=0, target=1, prototypes=2, steps=1, lr=0.0, rows=10),
        lambda: InfluencePoison(wish="random", steps=0, step_size=0.1),
        lambda: InfluencePoison(wish="random", steps=1, step_size=2.0),
    ],
)
def test_fields_out_of_range_are_refused(plan):
    with pytest.raises(ConfigError, match=r"attack\.data"):
        plan()
