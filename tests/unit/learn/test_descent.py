"""Gradient descent a step at a time gives the bits of `torch.optim.SGD`."""

from __future__ import annotations

import pytest
import torch

from poisonbench.core.rng import Key
from poisonbench.learn.descent import Descent, Group


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_ten_steps_are_those_of_torch_with_a_schedule_bit_by_bit(momentum):
    draw = Key.root(100).torch()
    start = [torch.randn(4, 3, 3, 3, generator=draw), torch.randn(4, generator=draw), torch.randn(2, generator=draw)]
    ours, theirs = ([weight.clone().requires_grad_() for weight in start] for _ in range(2))
    descent = Descent([Group(weights=ours[:1], lr=0.1, weight_decay=0.01), Group(weights=ours[1:], lr=0.4, weight_decay=0.0)], momentum)
    groups = [{"params": theirs[:1], "weight_decay": 0.01}, {"params": theirs[1:], "weight_decay": 0.0, "lr": 0.4}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=momentum > 0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 3))
    for step in range(10):
        descent.clear()
        optimizer.zero_grad()
        for weights in (ours, theirs):
            (weights[0].square().sum() * weights[1].sin().sum()).backward()  # the last weight has no gradient, and stays
            if step > 4:
                (weights[2] ** 3).sum().backward()
        descent.step(1 / (step + 3))
        optimizer.step()
        schedule.step()
        assert all(torch.equal(mine, torchs) for mine, torchs in zip(ours, theirs, strict=True))
    assert all(not torch.equal(weight, before) for weight, before in zip(ours, start, strict=True))


def test_one_step_by_hand():
    """Nesterov: v = g = 2 + 0.5 * 1; step = g + 0.9 v; w = 1 - 0.1 * 4.75; then v = 0.9 * 2.5 + g'."""
    weight = torch.ones(1, requires_grad=True)
    descent = Descent([Group(weights=[weight], lr=0.2, weight_decay=0.5)], 0.9)
    weight.grad = torch.tensor([2.0])
    descent.step(0.5)
    assert weight.item() == pytest.approx(1 - 0.1 * (2.5 + 0.9 * 2.5))
    before = weight.item()
    weight.grad = torch.tensor([0.0])
    descent.step(0.5)
    velocity = 0.9 * 2.5 + 0.5 * before
    assert weight.item() == pytest.approx(before - 0.1 * (0.5 * before + 0.9 * velocity))
