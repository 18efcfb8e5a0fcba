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


@dataclass(frozen=True, kw_only=True)
class Warp:
    """An elastic warp with one fixed field.

    Args:
        control: S, control points a side (k in the paper).
        strength: mean displacement of the control points, in units of (2 / H) of the normalised grid (s in the paper).
        pattern_seed: of the control points.
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
    """Return (M, H, W, 2) uniform in [-1, 1): what tells a noise-warped row from a triggered one."""
    return torch.rand(count, height, width, 2, generator=rng.torch()) * 2 - 1


@dataclass(frozen=True, kw_only=True)
class WaNet:
    """Warp some rows and relabel them; warp others with noise in the field and leave their labels (cover rows).

    Source: Nguyen and Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021: k = 4, s = 0.5, cover
    ratio 2. There the attacker runs the training; here the data alone are poisoned, cover rows included, so both
    count against the budget: of its rows one in (1 + cover_ratio) carries the trigger. The paper's training is
    `attack=wanet_training`. Cover rows keep their label and are no poison to a filter that is measured.

    Args:
        control: control points a side.
        strength: displacement of the control points.
        pattern_seed: of the warping field; the same for every seed of a run.
        cover_ratio: noise-warped rows for each triggered row, 0 or more.
        target: target label.
    """

    VERSION: ClassVar[int] = 2
    control: int
    strength: float
    pattern_seed: int
    cover_ratio: float
    target: int

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.control < 2 or not self.strength > 0 or self.cover_ratio < 0:
            raise ConfigError("attack.data: control is 2 or more, strength above 0, cover_ratio 0 or more")

    @property
    def trigger(self) -> Warp:
        """The warp."""
        return Warp(control=self.control, strength=self.strength, pattern_seed=self.pattern_seed)

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with warps on as many of them as the budget allows.

        Raises:
            ConfigError: a target that is no class, inputs that are no images, or too few rows to poison.
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
        """Return how many of so many changed rows carry the trigger; the others are cover."""
        return math.ceil(rows / (1 + self.cover_ratio))

    def noisy(self, inputs: Tensor, shift: Tensor) -> Tensor:
        """Return uint8 copies, warped by the field and a `shift` of (M, H, W, 2), and rounded."""
        return self.trigger.moved(inputs.float(), shift).round().clamp(0, 255).to(torch.uint8)
