"""Pictures as pixels.

Shape letters: N rows, B rows of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.form import Form, Norm, Twins
from poisonbench.core.rng import Key
from poisonbench.forms.copies import alike_pictures

PICTURES = frozenset({"pixels"})  # for READS of plugins that need pictures


def changed_pixels(one: Tensor, other: Tensor) -> Tensor:
    """Return (N,) float64, the number of pixels of each picture that differ in some channel."""
    return (one != other).any(1).flatten(1).sum(1).to(torch.float64)


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


@dataclass(frozen=True, kw_only=True)
class Pixels(Form):
    """Pictures, (N, C, H, W) uint8; changes are measured in 0..255, by "linf" or "l2", or as the number of "pixels" that changed."""

    NAME: ClassVar[str] = "pixels"
    NORMS: ClassVar[Mapping[str, Norm]] = MappingProxyType({**Form.NORMS, "pixels": changed_pixels})

    def fault(self, values: Tensor) -> str | None:
        """Refuse anything but uint8 pictures."""
        if values.dtype == torch.uint8 and values.ndim == 4:
            return None
        return f"inputs are {values.dtype} of shape {tuple(values.shape)}; give uint8 pixels (N, C, H, W)"

    def table(self, inputs: Tensor) -> Tensor:
        """Return (N, C * H * W) in 0..1."""
        return inputs.float().flatten(1) / 255

    def mixed(self, inputs: Tensor, others: Tensor, weight: float, rng: Key) -> Tensor:
        """Lay one picture over the other; pixels saturate."""
        return (weight * inputs.float() + weight * others.float()).clamp(0, 255).round().to(torch.uint8)

    def twins(self, values: Tensor, rng: Key) -> Twins:
        """Return which pictures copy an earlier one, also after a small patch, noise, JPEG or a change of the light (`poisonbench.forms.copies`)."""
        return alike_pictures(values, rng)

    def picture(self, value: Tensor) -> Tensor | None:
        """Return the picture."""
        return value
