"""Noise on pictures: the limit that the budget sets, the gradient of a surrogate, and whole grey levels.

Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.learner import Differentiable, Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known

CHUNK = 500  # rows per gradient computation
SHRINK = 0.995  # of noise whose rounding exceeds the limit

View: TypeAlias = Callable[[Tensor], Tensor]  # from (N, C, H, W) pixels to pixels of the same shape, differentiable


def limit_of(known: Known, norm: str, example: str) -> float:
    """Return the limit of the budget in this norm.

    Args:
        known: what the attacker knows.
        norm: that the attack needs.
        example: a threat that has it.

    Raises:
        ConfigError: the budget has no such limit, or one below 1, which allows no change: rows are stored in whole grey levels.
    """
    limit = known.budget.limit
    if known.budget.norm != norm or limit is None:
        raise ConfigError(f"this attack changes pictures within threat.budget.norm={norm} and a limit, such as threat={example}")
    if limit < 1:
        raise ConfigError(f"threat.budget.limit={limit:g} allows no change of whole grey levels or pixels; give 1 or more, as threat={example} does")
    return limit


def changed(known: Known, rng: Key, change: Callable[[Dataset], Tensor]) -> Poisoned:
    """Return the rows with as many of them changed as the budget allows; the goal is a worse model.

    Args:
        known: what the attacker knows.
        rng: chooses the rows.
        change: takes the chosen rows and returns their new (N, C, H, W) uint8 inputs; called only if there are any.
    """
    rows, chosen = known.rows, known.choose(torch.ones(len(known.rows), dtype=torch.bool), rng.child("rows"))
    data = rows.edit(chosen, inputs=change(rows.take(chosen))) if len(chosen) else rows
    return Poisoned(data=data, mask=known.mask(chosen), goal=Degrade())


def differentiable(victim: Victim) -> Differentiable:
    """Return the surrogate as a function with gradients.

    Raises:
        ConfigError: it has none.
    """
    if victim.module is None:
        raise ConfigError("this attack needs a surrogate with gradients; choose another threat.surrogate")
    return victim.module


def pixel_gradient(victim: Victim, rows: Dataset, noise: Tensor, view: View | None = None) -> Tensor:
    """Return the gradient of the summed loss with respect to the (N, C, H, W) noise.

    Args:
        victim: the surrogate.
        rows: N rows; the loss is that of their labels.
        noise: (N, C, H, W), in grey levels.
        view: how the surrogate sees the perturbed rows; None: as they are.
    """
    module = differentiable(victim)
    moved = (module.lift(rows.inputs) + noise).clamp(0, 255).requires_grad_()
    loss = F.cross_entropy(module(moved if view is None else view(moved)), rows.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, moved)
    return gradient


def shifted(inputs: Tensor, draws_N3: Tensor, shift: int) -> Tensor:
    """Shift each picture by up to `shift` pixels in both axes, with zeros from outside, and mirror half of them; differentiable.

    Args:
        inputs: (N, C, H, W).
        draws_N3: uniform in [0, 1), for the shift along the height, the shift along the width, and the mirror.
        shift: largest shift, in pixels.
    """
    height, width = inputs.shape[2:]
    padded = F.pad(inputs, (shift, shift, shift, shift))
    corner = (draws_N3[:, :2] * (2 * shift + 1)).long()
    down = corner[:, 0, None] + torch.arange(height)
    across = corner[:, 1, None] + torch.arange(width)
    across = torch.where(draws_N3[:, 2, None] < 0.5, across.flip(1), across)
    images = torch.arange(len(inputs))[:, None, None]
    return padded[images, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def perturbed(inputs: Tensor, noise: Tensor) -> Tensor:
    """Return uint8 images: inputs plus noise, rounded and clipped to 0..255."""
    return (inputs.float() + noise).round().clamp(0, 255).to(torch.uint8)


def scaled(noise: Tensor, length: float) -> Tensor:
    """Return (N, C, H, W) noise, every row scaled to this Euclidean length; a row of zeros stays."""
    return length * F.normalize(noise.flatten(1), dim=1).view(noise.shape)


def whole(noise: Tensor, limit: float) -> Tensor:
    """Return (N, C, H, W) noise in whole grey levels whose rows have a Euclidean length of at most `limit`.

    Rounding can make a row longer. Such a row is made shorter, step by step, until its rounding fits.
    """
    noise, found = noise.double(), noise.double().round()
    while (over := found.flatten(1).norm(dim=1) > limit).any():
        noise = torch.where(over[:, None, None, None], SHRINK * noise, noise)
        found = noise.round()
    return found.float()


def normal(rng: Key, ids: Tensor, draws: int) -> Tensor:
    """Return (N, draws) float64, normal numbers that depend only on the key and the row ids."""
    drawn: Tensor = torch.special.ndtri(rng.per_row(ids, draws=draws).clamp_min(2.0**-53))
    return drawn
