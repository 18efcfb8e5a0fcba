"""Clipped sums against one row at a time in float64, layer by layer of every kind that a network may have."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.train.dp_sgd import PrivateStep, clipped_sum
from defenses.train.per_example import PerExample
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key, seeded

BOUND = 0.7


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.last(self.second(self.first(inputs).tanh()).tanh())


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.again, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.last(self.again(self.again(inputs).tanh()).tanh())


class ConvTwice(nn.Module):
    """A convolution that is called twice, with two sizes of picture."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.last(self.again(F.max_pool2d(self.again(self.first(inputs)).tanh(), 2)).amax((2, 3)))


def pictures(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


NETS = {
    "linear": ((6,), lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))),
    "tokens": ((4, 6), lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))),
    "convolutions": ((2, 8, 8), lambda: pictures(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2, dilation=2, bias=False))),
    "same padding": ((2, 8, 8), lambda: pictures(nn.Conv2d(2, 4, (3, 5), padding="same"), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding="valid"))),
    "groups": ((2, 8, 8), lambda: pictures(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3))),
    "group normalisation": ((2, 8, 8), lambda: pictures(nn.GroupNorm(1, 2), nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU())),
    "layer normalisation": ((6,), lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))),
    "tied weights": ((6,), Tied),
    "called twice": ((6,), Twice),
    "convolution called twice": ((2, 8, 8), ConvTwice),
}


def made(kind: str, layout: torch.memory_format = torch.contiguous_format) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, rows, and labels."""
    shape, build = NETS[kind]
    with seeded(Key.root(0)):
        net, inputs = build(), 3 * torch.randn(7, *shape)
        net(inputs)
    return (net.to(memory_format=layout) if len(shape) == 3 else net), inputs, torch.arange(7) % 3


def losses(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,), that of the third row with no gradient at all."""
    return F.cross_entropy(net(inputs), labels, reduction="none") * (torch.arange(len(labels)) != 2)


def by_rows(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Clip each row's gradient, got alone and in float64, and add them up."""
    net, weights = net.double(), list(net.parameters())
    total = [torch.zeros_like(weight) for weight in weights]
    for own in losses(net, inputs.double(), labels):
        parts = torch.autograd.grad(own, weights, retain_graph=True)
        norm = sum(part.square().sum() for part in parts).sqrt()
        for whole, part in zip(total, parts, strict=True):
            whole += part * min(1.0, BOUND / max(float(norm), 1e-12))
    return total


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", NETS)
def test_the_clipped_sum_is_that_of_one_row_at_a_time(kind, layout):
    net, inputs, labels = made(kind, layout)
    expected = by_rows(copy.deepcopy(net), inputs, labels)
    followed = PerExample(net.train())
    for _ in range(2):  # the second step writes into the memory of the first
        losses(net, inputs, labels).mean().backward()
        for found, wanted in zip(clipped_sum(followed.gradients(), BOUND), expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
        followed.clear()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", NETS)
def test_no_row_moves_the_sum_by_more_than_the_bound(kind, bf16):
    """In bfloat16 the gradients are rounded, but what is clipped are the rounded ones, exactly."""
    net, inputs, labels = made(kind)
    followed, moves = PerExample(net.train()), []
    for row in range(7):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            own = losses(net, inputs[row : row + 1] * 100, labels[row : row + 1])
        own.float().sum().backward()
        moves.append(torch.cat([part.flatten() for part in clipped_sum(followed.gradients(), BOUND)]).double().norm())
        followed.clear()
    assert max(moves) == pytest.approx(BOUND, rel=1e-5)


@pytest.mark.parametrize("turned", [lambda rows: rows.flatten(0, 1), lambda rows: rows.transpose(0, 1), lambda rows: rows[:1]])
def test_a_layer_that_does_not_see_row_by_row_is_refused_before_training(turned):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 4), nn.Linear(6, 3)

        def forward(self, inputs):
            return self.last(inputs[:, 0]) + self.first(turned(inputs)).mean()

    step = PrivateStep(epsilon=3.0, delta=1e-5, max_grad_norm=1.0, accountant="rdp", sampling="poisson")
    with pytest.raises(ConfigError, match=r"cannot follow single rows through the weights first\.weight, first\.bias"):
        step.check_followed(Turned(), (4, 6))


def test_rows_are_followed_in_training_alone():
    net, inputs, labels = made("convolutions")
    plain = net(inputs)
    followed = PerExample(net)
    net.eval()
    assert torch.equal(net(inputs), plain)
    assert followed.gradients() == [None] * 5
    followed.remove()
    assert not any("forward" in vars(layer) or layer._forward_pre_hooks or layer._backward_hooks for layer in net.modules())
    losses(net.train(), inputs, labels).mean().backward()
    assert all(weight.grad is not None for weight in net.parameters())


def test_a_second_pass_before_the_first_is_clipped_is_refused():
    net, inputs, labels = made("linear")
    followed = PerExample(net.train())
    losses(net, inputs, labels).mean().backward()
    with pytest.raises(RuntimeError, match="before the gradients of the first were clipped"):
        net(inputs)
    followed.clear()
    net(inputs)


@pytest.mark.parametrize("kind", ["linear", "convolutions", "group normalisation"])
def test_the_bits_are_those_of_opacus(kind):
    """So that results of records made with its hooks stay; one thread, as they have."""
    from opacus.grad_sample import GradSampleHooks

    net, inputs, labels = made(kind)
    other = copy.deepcopy(net)
    followed, hooks = PerExample(net.train()), GradSampleHooks(other.train(), loss_reduction="mean", strict=False)
    losses(net, inputs, labels).mean().backward()
    losses(other, inputs.requires_grad_(), labels).mean().backward()
    for found, weight in zip(followed.gradients(), other.parameters(), strict=True):
        assert torch.equal(found.rows, weight.grad_sample)
        assert torch.equal(found.squares, weight.grad_sample.flatten(1).square().sum(1))
    hooks.cleanup()
