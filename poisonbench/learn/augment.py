"""Augmentation as functions of a batch and one row of uniform draws per image.

Shape letters: B rows, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CROP, FLIP, CUTOUT = slice(0, 2), slice(2, 3), slice(3, 5)
DRAWS = 5


def crop(inputs: Tensor, draws_B2: Tensor, pad: int) -> Tensor:
    """Shift each image by up to `pad` pixels in both axes; fill with zeros.

    Args:
        inputs: (B, C, H, W), any dtype.
        draws_B2: uniform in [0, 1), one for rows and one for columns.
        pad: largest shift, in pixels.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    height, width = inputs.shape[2:]
    padded = F.pad(inputs, (pad, pad, pad, pad))
    top_left = (draws_B2 * (2 * pad + 1)).long()
    rows = top_left[:, 0, None] + torch.arange(height, device=inputs.device)
    columns = top_left[:, 1, None] + torch.arange(width, device=inputs.device)
    images = torch.arange(len(inputs), device=inputs.device)[:, None, None]
    # the slice between index tensors moves channels to the end, which is the layout convolutions want
    return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


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
