import dataclasses

import pytest
import torch
from torch.nn import functional as F

from attacks.targeted.metapoison import MetaPoison, Shown, looked_ahead, short_of
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from tests.unit.attacks.worlds import images, world


class Linear(torch.nn.Module):
    """A linear model of pixels."""

    def __init__(self, kinds: int = 3, width: int = 64) -> None:
        super().__init__()
        self.last = torch.nn.Linear(width, kinds)
        with torch.no_grad():
            self.last.weight.copy_(torch.linspace(-1, 1, kinds * width).view(kinds, width).sin() / width**2)
            self.last.bias.zero_()

    def lift(self, inputs):
        return inputs.float()

    def forward(self, inputs):
        return self.last(inputs.flatten(1))


@dataclasses.dataclass
class Trained:
    module: Linear
    age: int = 0

    def features(self, inputs):
        return inputs.float().flatten(1)


FIELDS = tree_of(["attack=metapoison"])["attack"]["data"]
PLAIN = {"wish": "next", "bases": "first", "steps": 30, "models": 2, "ages": 2, "advance_every": 0, "lr": 1e-4, "clean_rows": 0, "confidence": 1e9}


def attack(**changed: object) -> MetaPoison:
    return MetaPoison(**{name: value for name, value in FIELDS.items() if name != "_target_"} | PLAIN | changed)


def aimed(tune):
    rows = images()
    return world(
        rows.take(torch.arange(1, 30)),
        target=rows.take(torch.arange(1)),
        fit=lambda data, *, draw=0: Trained(Linear()),
        tune=tune,
        count=4,
        norm="linf",
        limit=16.0,
        relabel=False,
    )


def test_the_gradient_of_the_unrolled_loss_is_that_of_finite_differences():
    module, target = Linear(width=16).double(), torch.linspace(0, 1, 16).double().view(1, 1, 4, 4)
    pixels, labels = torch.linspace(-1, 1, 96).double().sin().view(6, 1, 4, 4).requires_grad_(), torch.tensor([0, 1, 2])

    def loss(x):
        batches = [Shown(x[:3], labels), Shown(x[3:], labels)]
        return short_of(looked_ahead(module, batches, target, 0.7), 1, 9.0)

    assert torch.autograd.gradcheck(loss, pixels)
    (gradient,) = torch.autograd.grad(loss(pixels), pixels)
    assert (gradient[:3].abs().max() > 0) & (gradient[3:].abs().max() > 0), "both steps are in the graph"


def test_one_step_on_a_linear_model_is_the_closed_form():
    module, inputs, labels = Linear().double(), torch.rand(5, 1, 8, 8, generator=Key.root(0).torch()).double(), torch.tensor([0, 1, 2, 0, 1])
    target = torch.linspace(0, 1, 64).double().view(1, 1, 8, 8)
    errors = (module(inputs).softmax(1) - F.one_hot(labels, 3)) / 5
    moved = module.last.weight - 0.3 * errors.T @ inputs.flatten(1)
    expected = target.flatten(1) @ moved.T + module.last.bias - 0.3 * errors.sum(0)
    torch.testing.assert_close(looked_ahead(module, [Shown(inputs, labels)], target, 0.3), expected)


def test_the_loss_is_the_margin_of_the_wished_score_up_to_the_confidence():
    scores = torch.tensor([[1.0, 4.0, 2.5]])
    assert float(short_of(scores, 2, 9.0)) == 1.5
    assert float(short_of(scores, 1, 9.0)) == -1.5
    assert float(short_of(scores, 1, 1.0)) == -1.0


def test_poisons_move_a_step_of_training_towards_the_wished_label():
    known = aimed(lambda victim, data, *, epochs: Trained(Linear()))
    poisoned = attack().poison(known, Key.root(0))

    def margin(data):
        batch = Shown(data.inputs[poisoned.mask].float(), data.labels[poisoned.mask])
        return float(short_of(looked_ahead(Linear(), [batch, batch], known.targets.inputs.float(), 1e-4), 1, 1e9).detach())

    assert margin(poisoned.data) < margin(known.rows) - 0.01
    assert (poisoned.data.inputs.int() - known.rows.inputs.int()).abs().max() == 16
    assert torch.equal(poisoned.data.labels, known.rows.labels)


def test_models_start_at_equal_distances_grow_older_on_the_poisoned_rows_and_start_again():
    told = []

    def tune(victim, data, *, epochs):
        told.append((victim.age if victim else None, epochs, torch.equal(data.inputs, known.rows.inputs)))
        return Trained(Linear(), age=(victim.age if victim else 0) + epochs)

    known = aimed(tune)
    attack(steps=5, models=2, ages=4, advance_every=2).poison(known, Key.root(0))
    assert told[:2] == [(None, 2, True), (None, 4, True)]
    assert told[2:4] == [(2, 1, False), (None, 1, False)]
    assert told[4:] == [(3, 1, False), (1, 1, False)]
    assert attack(models=24, ages=48).first_ages() == list(range(2, 50, 2))


@pytest.mark.parametrize("changed", [{"steps": 0}, {"models": 0}, {"unroll": 0}, {"lr": 0.0}, {"confidence": -1.0}, {"models": 3, "ages": 2}])
def test_fields_out_of_range_are_refused(changed):
    with pytest.raises(ConfigError, match=r"attack\.data"):
        attack(**changed)
