"""The penalty of CROW by hand, and what it does to a model."""

import math

import pytest
import torch

from defenses.repair.crow import Consistent, ConsistentStep, Crow, inconsistency
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch
from poisonbench.core.rng import Key
from poisonbench.nets.gpt import WordNet, begun
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

TEXTS = torch.tensor([[3, 4, 0], [5, 3, 4]])


class Turning(WordNet):
    """Two layers of two numbers: the first keeps the embedding, the second has the angle of `turn` times its second number more."""

    def __init__(self, turn: float) -> None:
        super().__init__()
        self.turn = torch.nn.Parameter(torch.tensor(turn))

    def layer_states(self, words, moved=None):
        first = torch.stack([torch.ones(words.shape), words.float()], 2) + (0.0 if moved is None else moved)
        angle = self.turn * first[..., 1]
        one, other, cosine, sine = first[..., 0], first[..., 1], angle.cos(), angle.sin()
        second = torch.stack([one * cosine - other * sine, one * sine + other * cosine], 2)
        return [first, first, second]


def test_the_penalty_is_the_mean_over_places_and_layers_as_by_hand():
    one, other, turned = torch.tensor([[[1.0, 0], [1, 0]]]), torch.tensor([[[1.0, 1], [2, 0]]]), torch.tensor([[[1.0, 1], [0, 2]]])
    real = torch.tensor([[True, True]])
    by_hand = ((1 - math.sqrt(0.5)) / 2 + (0 + 1) / 2) / 2  # each place is the mean of two transitions: 1 to 2 and 2 to 3
    assert inconsistency([one, one, other, turned], real).tolist() == pytest.approx([by_hand])
    assert inconsistency([one, one, other, turned], torch.tensor([[True, False]])).tolist() == pytest.approx([(1 - math.sqrt(0.5)) / 2])


def test_the_embeddings_are_moved_by_the_sign_of_the_gradient():
    """The angle between the layers is turn * word, so the second number of each embedding is moved up by the radius, where the sine is positive."""
    crow = Consistent(inner=None, module=Turning(0.1), weight=1.0, radius=0.5)
    words = begun(TEXTS).double()
    expected = 1 - torch.cos(0.1 * (words + 0.5 * (words > 0)))
    expected[:, 0] = 0  # at the begin the angle is 0, and so is the gradient
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(crow.penalty(TEXTS).detach().double(), (expected * real).sum(1) / real.sum(1), rtol=1e-4, atol=1e-6)


def test_the_weight_multiplies_the_penalty_and_its_gradient_reaches_the_model():
    def inner(network, batch, label_smoothing):
        return torch.tensor([1.0, 2.0])

    module, batch = Turning(0.1), Batch(inputs=TEXTS[:, :2], labels=torch.zeros(2), ids=torch.arange(2), extra={"response": TEXTS[:, 2:]})
    losses = Consistent(inner=inner, module=module, weight=3.0, radius=0.5)(None, batch, 0.0)
    torch.testing.assert_close(losses, torch.tensor([1.0, 2.0]) + 3 * Consistent(inner=inner, module=module, weight=1.0, radius=0.5).penalty(TEXTS))
    (slope,) = torch.autograd.grad(losses.sum(), module.turn)
    assert slope > 0


def test_crow_makes_layers_more_alike_than_fine_tuning_does(tiny, store):
    line = Line(experiment=tiny("attack=denial_backdoor", "task.trusted=0.2", "net.layers=2"), store=store)
    poisoned = line.strike()
    victim, means = line.fit(line.learner, poisoned.data, line.honest), line.means(poisoned, None)
    found = {}
    for weight in (0.0, 20.0):
        mended = Crow(epochs=2, weight=weight, radius=0.1).repair(victim, None, means, Key.root(0)).victim
        with torch.no_grad():
            found[weight] = float(inconsistency(mended.words.layer_states(begun(means.trusted.inputs)), torch.ones(1, 1)).mean())
    tuned = means.tune(victim, means.trusted, epochs=2)
    with torch.no_grad():
        plain = float(inconsistency(tuned.words.layer_states(begun(means.trusted.inputs)), torch.ones(1, 1)).mean())
    assert found[0.0] == pytest.approx(plain, abs=1e-6)
    assert found[20.0] < 0.7 * plain


def test_networks_of_classes_and_of_one_layer_are_incompatible(tiny, store):
    with pytest.raises(Incompatible, match="this network gives classes"):
        ConsistentStep(weight=1.0, radius=0.1).check(torch.nn.Linear(2, 2), None)
    record = run(tiny("attack=denial_backdoor", "defense=crow"), store)
    assert record.status == "skipped"
    assert "net.layers" in record.reason


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"weight": -1.0}, {"radius": math.inf}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Crow(**{"epochs": 1, "weight": 1.0, "radius": 0.1, **fields})
