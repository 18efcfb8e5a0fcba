"""WaNet: a smooth warp of the image as a trigger.

Shape letters: M images, C channels, H height, W width, S control points a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.backdoor.triggers import all_to, images
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Backdoor
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Trigger: an elastic warp with one fixed field.

    Args:
        control: S, control points per side (k in the paper).
        strength: mean displacement of the control points along each axis (s in the paper), in units of 1 / H of coordinates in [-1, 1]: half a
            pixel.
        pattern_seed: seed of the control points.
    """

    VERSION: ClassVar[int] = 1
    control: int
    strength: float
    pattern_seed: int

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, C, H, W) uint8 copies, warped and rounded."""
        return self.moved(inputs.float(), torch.zeros(1)).round().clamp(0, 255).to(torch.uint8)

    def moved(self, inputs: Tensor, shift: Tensor) -> Tensor:
        """Return warped float32 images.

        Args:
            inputs: (M, C, H, W) float32.
            shift: added to the sampling grid, (1,) or (M, H, W, 2), in units of 1 / H.
        """
        height, width = inputs.shape[2:]
        grid = (field(self, height, width).to(inputs.device) + shift.to(inputs.device) / height).clamp(-1, 1)
        return F.grid_sample(inputs, grid.expand(len(inputs), -1, -1, -1), align_corners=True)


@lru_cache(maxsize=8)
def field(warp: Warp, height: int, width: int) -> Tensor:
    """Return the (1, H, W, 2) sampling grid of a warp: the identity plus a smooth displacement."""
    draws = Key.root(warp.pattern_seed).child("wanet").numpy().random((1, 2, warp.control, warp.control))
    control = torch.from_numpy(draws).float() * 2 - 1
    control = control / control.abs().mean()
    smooth = F.interpolate(control, size=(height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (torch.stack([x, y], 2)[None] + warp.strength * smooth / height).clamp(-1, 1)


def jitter(rng: Key, count: int, height: int, width: int) -> Tensor:
    """Return (M, H, W, 2) uniform in [-1, 1): the extra noise in the warp of cover rows."""
    return torch.rand(count, height, width, 2, generator=rng.torch()) * 2 - 1


@dataclass(frozen=True, kw_only=True)
class WaNet:
    """Warp some training rows and give them the target label; warp others with extra noise and keep their labels (cover rows).

    Source: Nguyen and Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021: k = 4, s = 0.5, two cover rows for each triggered row.

    Differences: the paper's attacker runs the training; that attack is `attack=wanet_training`. Here only the data are poisoned. Cover rows count
    against the budget as well: of the rows that it allows, one in (1 + cover_ratio) carries the trigger. A cover row keeps its label,
    and does not count as poison when a filter is measured.

    Args:
        control: control points per side, 2 or more.
        strength: mean displacement of the control points in units of half a pixel, above 0.
        pattern_seed: seed of the warping field; it does not depend on the seed of the run.
        cover_ratio: cover rows for each triggered row, 0 or more.
        target: target label.
    """

    VERSION: ClassVar[int] = 2
    READS: ClassVar[frozenset[str]] = PICTURES
    control: int
    strength: float
    pattern_seed: int
    cover_ratio: float
    target: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.control < 2 or not self.strength > 0 or self.cover_ratio < 0:
            raise ConfigError("attack.data: control is 2 or more, strength above 0, cover_ratio 0 or more")

    @property
    def trigger(self) -> Warp:
        """The warp."""
        return Warp(control=self.control, strength=self.strength, pattern_seed=self.pattern_seed)

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with warps on as many of them as the budget allows.

        Raises:
            ConfigError: the target is not a class, the inputs are not images, or there are too few rows to poison.
        """
        rows, wish = known.rows, all_to(self.target, known.rows.num_classes)
        _, height, width = images(tuple(rows.inputs.shape[1:]), "a warp")
        chosen = known.choose(rows.labels != self.target, rng.child("rows"))
        order = chosen[rng.child("cover").per_row(rows.ids[chosen])[:, 0].argsort(stable=True)]
        count = self.triggers(len(order))
        triggered, cover = order[:count], order[count:]
        noise = self.noisy(rows.inputs[cover], jitter(rng.child("noise"), len(cover), height, width))
        data = rows.edit(triggered, inputs=self.trigger(rows.inputs[triggered]), labels=wish[rows.labels[triggered]])
        goal = Backdoor(trigger=self.trigger, wish=wish)
        return Poisoned(data=data.edit(cover, inputs=noise), mask=known.mask(chosen), goal=goal, cover=known.mask(cover))

    def triggers(self, rows: int) -> int:
        """Return how many of `rows` changed rows carry the trigger; the others are cover rows."""
        return math.ceil(rows / (1 + self.cover_ratio))

    def noisy(self, inputs: Tensor, shift: Tensor) -> Tensor:
        """Return uint8 copies, warped by the field plus a (M, H, W, 2) `shift`, and rounded."""
        return self.trigger.moved(inputs.float(), shift).round().clamp(0, 255).to(torch.uint8)
