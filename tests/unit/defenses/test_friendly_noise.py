"""Friendly noise: its objective against closed forms and finite differences, and what is added to which row."""

import dataclasses
import math

import pytest
import torch

from defenses.train.friendly_noise import STATE, FriendlyNoiseStep, unfriendliness
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import Pixels
from poisonbench.runner.pipeline import run

FIELDS = {"start": 1, "steps": 20, "lr": 0.5, "mu": 1.0, "limit": 16.0, "random": "bernoulli", "size": 8.0}
PLAN = Plan(rows=6, epochs=4, steps=2, shape=(1, 2, 2))


def step(**fields) -> FriendlyNoiseStep:
    return FriendlyNoiseStep(**{**FIELDS, **fields})


class Linear(torch.nn.Module):
    """Two scores: the first pixel over 255, and zero; the other pixels change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0] * 4]) / 255)

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weights.T


def data() -> Dataset:
    inputs = torch.randint(60, 200, (6, 1, 2, 2), generator=Key.root(0).torch(), dtype=torch.uint8)
    rows = Dataset.of(inputs, torch.arange(6) % 2, num_classes=2, form=Pixels())
    return rows.edit(torch.arange(6), ids=torch.tensor([40, -1, 7, 3, -2, 9]))  # ids are not positions


def moment(module: torch.nn.Module, epoch: int) -> Moment:
    return Moment(module=module, plan=PLAN, epoch=epoch, step=2 * epoch, rng=Key.root(epoch))


def batch(rows: Dataset) -> Batch:
    return Batch(inputs=rows.inputs, labels=rows.labels, ids=rows.ids, form=rows.form)


def test_the_objective_is_the_divergence_less_the_mean_square_by_hand():
    """The scores are ln 3 and 0 without noise, 0 and 0 with it: KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2."""
    inputs = torch.tensor([math.log(3) * 255 / 255, 0.0, 0.0, 0.0]).double().view(1, 1, 2, 2) * 100
    network = lambda moved: moved.flatten(1)[:, :2] / 100  # noqa: E731
    noise = torch.zeros(1, 1, 2, 2).double()
    noise[0, 0, 0, 0] = -math.log(3) * 100 / 255
    loss = unfriendliness(network, inputs, network(inputs).log_softmax(1), noise, 2.0)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(loss) == pytest.approx(divergence - 2 * (math.log(3) * 100 / 255) ** 2 / 4)


def test_the_gradient_of_the_objective_is_that_of_finite_differences():
    weights = torch.randn(3, 4, dtype=torch.float64, generator=Key.root(1).torch()) / 50
    network = lambda moved: torch.tanh(moved.flatten(1) @ weights.T)  # noqa: E731
    inputs = 100 + 20 * torch.rand(2, 1, 2, 2, dtype=torch.float64, generator=Key.root(2).torch())
    noise = (0.05 * torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=Key.root(3).torch())).requires_grad_()
    answers = network(inputs).log_softmax(1)
    assert torch.autograd.gradcheck(lambda moved: unfriendliness(network, inputs, answers, moved, 1.5), noise)


def test_pixels_that_change_no_answer_reach_the_limit_and_the_others_stay_small():
    start = torch.tensor([[[[3.0, 3.0], [-3.0, 0.0]]]])
    noise = step(steps=60, mu=5.0).descended(Linear(), torch.full((1, 1, 2, 2), 100.0), start)
    assert noise.flatten()[1:].tolist() == [16.0, -16.0, 0.0]  # without a start there is no direction
    strict = step(steps=60, mu=0.01, lr=5.0).descended(Linear(), torch.full((1, 1, 2, 2), 100.0), start)
    assert abs(float(strict.flatten()[0])) < 0.1


def test_noise_is_whole_within_the_limit_and_belongs_to_its_row():
    module, rows = Linear(), data()
    noise = step(limit=5.0, mu=50.0).computed(module, rows, Key.root(1))
    assert noise.ids.tolist() == [-2, -1, 3, 7, 9, 40]
    assert noise.levels.abs().max() == 5
    alone = step(limit=5.0, mu=50.0).computed(module, rows.take(torch.tensor([2])), Key.root(1))
    assert torch.equal(alone.levels[0], noise.levels[3])  # the row with id 7, whatever other rows there are
    assert module.training


def test_the_noise_starts_at_its_epoch_and_is_removed_at_the_end():
    module, rows, chain = Linear(), data(), step(mu=50.0)
    chain.begin(module, rows)
    for epoch in (0, 1, 2):
        assert [rows.tolist() for rows in chain.sample([torch.arange(3)], rows, moment(module, epoch))] == [[0, 1, 2]]
        shown = chain.rows(batch(rows), moment(module, epoch)).inputs
        assert torch.equal(shown, rows.inputs) == (epoch < 1)
        assert (shown.int() - rows.inputs.int()).abs().max() <= 16
    assert shown.dtype == torch.uint8
    facts = chain.finish(module, PLAN)
    assert 0 < facts["friendly_noise"] <= 16
    assert not hasattr(module, STATE)


@pytest.mark.parametrize(("kind", "deviation"), [("bernoulli", 8.0), ("uniform", 8 / math.sqrt(3)), ("gaussian", 8.0)])
def test_random_noise_has_its_size_and_is_drawn_by_row_and_step(kind, deviation):
    rows = Dataset.of(torch.zeros(400, 1, 8, 8), torch.zeros(400, dtype=torch.int64), num_classes=2)
    one, two = (step(random=kind).batch(batch(rows), moment(Linear(), epoch)).inputs for epoch in (0, 1))
    assert one.std().item() == pytest.approx(deviation, rel=0.02)
    assert one.mean().abs() < 0.2
    assert not torch.equal(one, two)
    assert one.abs().max() <= 8 or kind == "gaussian"
    half = step(random=kind).batch(batch(rows.take(torch.arange(7))), moment(Linear(), 0)).inputs
    assert torch.equal(half, one[:7])


def test_a_training_with_friendly_noise_still_learns(tiny, store):
    record = run(tiny("defense=friendly_noise", "defense.train.step.start=1", "defense.train.step.steps=4"), store)
    assert record.metrics["c_acc"] > 0.8
    assert 0 < record.facts["friendly_noise"] <= 16


def test_features_have_no_grey_levels(tiny, store):
    record = run(tiny("learner=transfer", "defense=friendly_noise"), store)
    assert (record.status, "friendly noise" in record.reason) == ("skipped", True)


@pytest.mark.parametrize("fields", [{"start": 0}, {"steps": 0}, {"lr": 0.0}, {"mu": -1.0}, {"limit": 0.0}, {"size": -1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(step(), **fields)


def test_a_training_that_ends_before_the_noise_is_refused():
    with pytest.raises(ConfigError, match="4 epochs"):
        step(start=4).check(Linear(), PLAN)
