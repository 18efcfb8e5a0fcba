"""TracIn against explicit gradients, and by hand."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from defenses.sanitize.tracin import TracIn, last_layer, weight_gradient
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run

FIELDS = {"how": "self", "layers": "last", "checkpoints": 1, "epochs": 1, "expected_rate": 0.1, "margin": 1.0}


def tracin(**fields) -> TracIn:
    return TracIn(**{**FIELDS, **fields})


class Net(torch.nn.Module):
    """Features that are fixed, less a constant, and a linear layer with a bias, in float64."""

    def __init__(self, seed: int, centre: torch.Tensor | float = 0.0) -> None:
        super().__init__()
        self.mixed = torch.randn(4, 5, generator=Key.root(seed).torch(), dtype=torch.float64)
        self.centre = centre
        self.last = torch.nn.Linear(5, 3, dtype=torch.float64)
        with torch.no_grad():
            self.last.weight.copy_(torch.randn(3, 5, generator=Key.root(seed + 1).torch(), dtype=torch.float64))
            self.last.bias.copy_(torch.randn(3, generator=Key.root(seed + 2).torch(), dtype=torch.float64))

    @property
    def module(self):
        return self

    def lift(self, inputs):
        return inputs

    def features(self, inputs, layer="penultimate"):
        return torch.tanh(inputs.double() @ self.mixed) - self.centre

    def forward(self, inputs):
        return self.last(self.features(inputs))

    def scores(self, inputs):
        return self(inputs).detach()


def rows(count: int, seed: int = 0) -> Dataset:
    return Dataset.of(torch.randn(count, 4, generator=Key.root(seed).torch()), torch.arange(count) % 3, num_classes=3)


def judged(filter_: TracIn, data: Dataset, trusted: Dataset, victims) -> torch.Tensor:
    means = Means(trusted=trusted, fit=None, tune=lambda victim, data, epochs, draw=0: victims[draw], truth=torch.zeros(0, dtype=torch.bool))
    return filter_.judge(data, means, Key.root(0))


def centred(seed: int, data: Dataset) -> Net:
    """Return a network whose features have mean zero over the rows, so that none is left to subtract."""
    return Net(seed, Net(seed).features(data.inputs).mean(0))


@pytest.mark.parametrize("how", ["self", "trusted"])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_the_closed_form_is_the_product_of_explicit_gradients_summed_over_checkpoints(how, layers):
    data, trusted = rows(9), rows(4, 7)
    victims, by_hand = [centred(10, data), centred(20, data)], torch.zeros(9, dtype=torch.float64)
    for victim in victims:
        for place in range(9):
            own = weight_gradient(victim, data.inputs[place : place + 1], data.labels[place : place + 1])
            others = own if how == "self" else torch.stack([weight_gradient(victim, t.inputs, t.labels) for t in map(trusted.take, torch.arange(4).split(1))])
            by_hand[place] += own @ own if how == "self" else (others @ own).mean()
    told = judged(tracin(how=how, layers=layers, checkpoints=2), data, trusted, victims)
    torch.testing.assert_close(told.suspicion, (by_hand if how == "self" else -by_hand).float())
    assert told.keep.tolist() == [place != int(told.suspicion.argmax()) for place in range(9)]  # a tenth of nine rows is one


def test_two_rows_by_hand():
    """Scores ln 3 and 0 give the errors (-1/4, 1/4) and, with the other label, (3/4, -3/4); features 1 and -1 have mean zero."""

    class Given:
        def features(self, inputs, layer="penultimate"):
            return inputs

        def scores(self, inputs):
            return torch.tensor([[math.log(3), 0.0]]).expand(len(inputs), 2)

    data = Dataset.of(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), num_classes=2)
    told = judged(tracin(expected_rate=0.5), data, data, [Given()])
    torch.testing.assert_close(told.suspicion, torch.tensor([2 / 16 * 2, 2 * 9 / 16 * 2]))  # squared errors times (1 + 1)
    assert told.keep.tolist() == [True, False]
    trusted = Dataset.of(torch.tensor([[1.0]]), torch.tensor([0]), num_classes=2)
    told = judged(tracin(how="trusted"), data, trusted, [Given()])
    # the errors of the trusted row are those of the first: products 2/16 and -6/16, times the products of features 1 + 1 and -1 + 1
    torch.testing.assert_close(told.suspicion, torch.tensor([-4 / 16, 0.0]))


def test_a_constant_in_all_features_changes_nothing():
    data, net = rows(9), Net(3)
    moved = Net(3, 5.0)
    with torch.no_grad():
        moved.last.bias.add_(5.0 * moved.last.weight.sum(1))  # the same scores
    one, two = (judged(tracin(), data, data, [victim]).suspicion for victim in (net, moved))
    torch.testing.assert_close(one, two)


def test_errors_of_the_last_layer_are_those_of_the_loss():
    data, net = rows(5), Net(4)
    scores = net(data.inputs).detach().requires_grad_()
    F.cross_entropy(scores, data.labels, reduction="sum").backward()
    torch.testing.assert_close(last_layer(net, data, torch.zeros(5).double()).errors[:, 0], scores.grad)


def test_flipped_labels_have_the_largest_influence_on_themselves(tiny, store):
    record = run(tiny("attack=label_flip", "threat.budget.rate=0.1", "defense=tracin", "defense.sanitize.checkpoints=2", "defense.sanitize.epochs=2"), store)
    assert record.metrics["auroc_all"] > 0.9
    assert record.metrics["tpr"] > 0.8


def test_trusted_rows_are_needed_to_compare_with_them(tiny, store):
    with pytest.raises(ConfigError, match="trusted"):
        run(tiny("defense=tracin", "defense.sanitize.how=trusted", "task.trusted=0"), store)


def test_a_victim_without_gradients_has_no_gradients_of_all_layers():
    with pytest.raises(ConfigError, match="gradients"):
        tracin(layers="all").influence(type("Flat", (), {"module": None})(), rows(3), rows(3))


@pytest.mark.parametrize("fields", [{"checkpoints": 0}, {"epochs": 0}, {"margin": -1.0}, {"expected_rate": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(tracin(), **fields)
