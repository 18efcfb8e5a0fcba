"""Meta-Sift: steps with closed forms, and planted wrong labels."""

import pytest
import torch
from torch.nn import functional as F

from defenses.sanitize.meta_sift import MetaSift, normed, outer, row_losses, standardised, top_of_each_class, virtual, weight, weight_net
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import Pixels

FIELDS = {"share": 0.5, "sifters": 3, "warmup": 3, "epochs": 5, "batch_size": 32, "lr": 1.0, "weight_lr": 0.01}
DRAWS = Key.root(0).torch()
HEAD = torch.randn(4, 3, generator=DRAWS, dtype=torch.float64)
ROWS = torch.randn(6, 4, generator=DRAWS, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_the_virtual_step_is_one_step_of_gradient_descent():
    weights, head = torch.rand(6, generator=Key.root(1).torch(), dtype=torch.float64), HEAD.clone().requires_grad_()
    loss = (weights * F.cross_entropy(ROWS @ head, LABELS, reduction="none")).sum()
    torch.testing.assert_close(virtual(HEAD, weights, ROWS, LABELS, 0.3), HEAD - 0.3 * torch.autograd.grad(loss, head)[0])


def small_net() -> list[torch.Tensor]:
    """A network of weights with three and two hidden units."""
    draws = Key.root(2).torch()
    return [torch.rand(shape, generator=draws, dtype=torch.float64) - 0.3 for shape in ((1, 3), (3,), (3, 2), (2,), (2, 1), (1,))]


def test_the_gradient_of_the_outer_loss_passes_through_the_virtual_step():
    net = [part.requires_grad_() for part in small_net()]
    loss = outer(net, HEAD, ROWS, LABELS, 0.3)
    found = torch.autograd.grad(loss, net[4])[0]
    # by differences; the weights after the step see detached losses, as in the published code, so these are held fixed
    with torch.no_grad():
        after = row_losses(virtual(HEAD, normed(weight(net, row_losses(HEAD, ROWS, LABELS))), ROWS, LABELS, 0.3), ROWS, LABELS)

        def value(change: float, unit: int) -> float:
            moved = [part.clone() for part in net]
            moved[4][unit, 0] += change
            losses = row_losses(virtual(HEAD, normed(weight(moved, row_losses(HEAD, ROWS, LABELS))), ROWS, LABELS, 0.3), ROWS, LABELS)
            return -float((normed(1 - weight(moved, after)) * losses).sum())

        expected = torch.tensor([[(value(1e-5, unit) - value(-1e-5, unit)) / 2e-5] for unit in range(2)], dtype=torch.float64)
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_steps_of_the_outer_loss_give_rows_with_large_losses_small_weights():
    sift, net = MetaSift(**FIELDS), weight_net(Key.root(0).torch())
    few, many = torch.tensor([0.1], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    before = float(weight(net, few) - weight(net, many))
    for _ in range(50):
        net = sift.moved(net, HEAD, ROWS, LABELS)
    assert float(weight(net, few) - weight(net, many)) > before + 0.05


def test_the_largest_weights_of_each_class_are_kept_and_at_least_one():
    weights = torch.tensor([0.1, 0.9, 0.5, 0.4, 0.2])
    assert top_of_each_class(weights, torch.tensor([0, 0, 0, 0, 1]), 0.5).tolist() == [False, True, True, False, True]


def test_features_are_centred_and_scaled():
    found = standardised(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert found.tolist() == [[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]


@pytest.mark.parametrize("seed", range(10))
def test_weights_fall_with_the_loss_before_the_first_step(seed):
    weights = weight(weight_net(Key.root(seed).torch()), torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64))
    assert weights[0] > weights[2]


class Placed:
    """A victim whose features are the pixels."""

    def features(self, inputs, layer="penultimate"):
        return inputs.float().flatten(1)


def test_planted_wrong_labels_get_the_smallest_weights():
    draws = Key.root(4).torch()
    truth = torch.arange(300) % 3
    pixels = 100 + 80 * F.one_hot(truth, 4) + 20 * torch.randn(300, 4, generator=draws)
    wrong = torch.rand(300, generator=draws) < 0.3
    labels = torch.where(wrong, (truth + 1 + (torch.rand(300, generator=draws) < 0.5)) % 3, truth)
    data = Dataset.of(pixels.clamp(0, 255).to(torch.uint8).view(300, 1, 2, 2), labels, num_classes=3, form=Pixels())
    asked = []
    means = Means(trusted=data.take(wrong & ~wrong), fit=None, tune=lambda victim, rows, epochs: asked.append((victim, epochs)) or Placed(), truth=wrong[:0])
    verdict = MetaSift(**FIELDS).judge(data, means, Key.root(0))
    assert asked == [(None, 3)]
    assert not (verdict.keep & wrong).any()
    assert int(verdict.keep.sum()) == sum(-(-int(size) // 2) for size in labels.bincount())
    assert verdict.suspicion[wrong].min() > verdict.suspicion[~wrong].median()


@pytest.mark.parametrize(
    "fields", [{"share": 0.0}, {"share": 1.1}, {"sifters": 0}, {"warmup": 0}, {"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"weight_lr": 0.0}]
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError):
        MetaSift(**{**FIELDS, **fields})
