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

from poisonbench.core.form import Form, Norm, Twins
from poisonbench.core.rng import Key
from poisonbench.forms.copies import alike_pictures

PICTURES = frozenset({"pixels"})  # for READS of plugins that need pictures


def changed_pixels(one: Tensor, other: Tensor) -> Tensor:
    """Return (N,) float64, the number of pixels of each picture that differ in some channel."""
    return (one != other).any(1).flatten(1).sum(1).to(torch.float64)


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
