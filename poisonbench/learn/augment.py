"""Augmentation as functions of a batch and one row of uniform draws per image.

Shape letters: B rows, C channels, H height, W width, R draws per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.form import Form
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES, crop

CROP, FLIP, CUTOUT = slice(0, 2), slice(2, 3), slice(3, 5)
DRAWS = 5


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of image rows, drawn again in each epoch.

    Args:
        crop: largest random shift, in pixels; 0 is off.
        flip: mirror left to right at random.
        cutout: side of the erased square, in pixels; 0 is off.
        alternate: with `flip`, mirror each row in every second epoch instead of at random.
        mirror: in evaluation, look at each picture and at its mirror image.
    """

    READS: ClassVar[frozenset[str]] = PICTURES

    crop: int
    flip: bool
    cutout: int
    alternate: bool
    mirror: bool = False

    def changes(self, form: Form) -> bool:
        """Return whether inputs of this form change from epoch to epoch."""
        return form.NAME in self.READS and bool(self.crop or self.flip or self.cutout)

    def views(self, inputs: Tensor, form: Form) -> tuple[Tensor, ...]:
        """Return the views of (B, ...) inputs whose scores are averaged in evaluation."""
        return (inputs, inputs.flip(-1)) if self.mirror and form.NAME in self.READS else (inputs,)

    def draws(self, ids: Tensor, epoch: int, rng: Key) -> Tensor:
        """Return the (B, R) draws that decide how each row is augmented in this epoch."""
        draws = rng.child("augment").per_row(ids, epoch, DRAWS)
        if self.alternate:
            draws[:, FLIP] = (rng.child("flip").per_row(ids) + epoch / 2) % 1
        return draws

    def __call__(self, inputs: Tensor, draws: Tensor) -> Tensor:
        """Return augmented (B, C, H, W) images of the same dtype."""
        inputs = crop(inputs, draws[:, CROP], self.crop) if self.crop else inputs
        inputs = flip(inputs, draws[:, FLIP]) if self.flip else inputs
        return cutout(inputs, draws[:, CUTOUT], self.cutout) if self.cutout else inputs


def flip(inputs: Tensor, draws_B1: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half."""
    return torch.where(draws_B1[:, :, None, None] < 0.5, inputs.flip(3), inputs)


def cutout(inputs: Tensor, draws_B2: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels to zero, its centre anywhere in the image (DeVries and Taylor, 2017)."""
    height, width = inputs.shape[2:]
    top = (draws_B2[:, 0, None] * height).long() - side // 2
    left = (draws_B2[:, 1, None] * width).long() - side // 2
    rows = torch.arange(height, device=inputs.device)[None]
    columns = torch.arange(width, device=inputs.device)[None]
    inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[:, None, :]
    return inputs.masked_fill(inside[:, None], 0)
