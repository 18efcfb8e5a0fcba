"""Convolution-based unlearnable data (CUDA): each class is blurred by another random filter.

Shape letters: N rows, K classes, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.availability.noise import changed
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES

LARGEST = 1e6  # of the weights beside the one of 1


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Convolve every picture with a random filter of its class, the same in all channels, and scale it to full brightness.

    Source: Sadasivan, Soltanolkotabi, Feizi, "CUDA: Convolution-based Unlearnable Datasets", CVPR 2023.

    The filter has weights uniform in [0, blur], and one weight of 1 at a random place, as in the authors' code. A picture is filtered with zeros
    around it, divided by its largest value and multiplied by 255. The change is visible and has no small norm, so the threat must not limit the size
    of changes.

    Differences: values are rounded to whole grey levels; the authors' code cuts off the fraction.

    Args:
        size: side of the filter, an odd number of 1 or more (paper: 3 on CIFAR-10).
        blur: largest of the other weights, above 0, at most 1e6 (paper: 0.3 on CIFAR-10).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    size: int
    blur: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.size < 1 or self.size % 2 == 0 or not 0 < self.blur <= LARGEST:
            raise ConfigError(f"attack.data: size is an odd number of 1 or more, blur a number above 0 and at most {LARGEST:g}")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many of them filtered as the budget allows.

        Raises:
            ConfigError: the budget limits the size of a change, or the filter is larger than a picture can fill.
        """
        if known.budget.norm is not None:
            raise ConfigError(f"attack=convolution changes whole pictures, but threat.budget.norm={known.budget.norm}; choose threat=unlearnable_any")
        if self.size >= 2 * (side := min(known.rows.inputs.shape[2:])):
            raise ConfigError(f"attack.data.size={self.size}: the pictures have {side} pixels a side; give a filter of less than {2 * side}")
        return changed(known, rng, lambda rows: filtered(rows, self.filters(rows.num_classes, rng)))

    def filters(self, kinds: int, rng: Key) -> Tensor:
        """Return (K, size, size), the filter of each class."""
        generator = rng.child("filters").torch()
        weights = self.blur * torch.rand(kinds, self.size**2, generator=generator)
        places = torch.randint(0, self.size**2, (kinds, 1), generator=generator)
        return weights.scatter(1, places, 1.0).view(kinds, self.size, self.size)


def filtered(rows: Dataset, filters: Tensor) -> Tensor:
    """Return (N, C, H, W) uint8 pictures, each filtered by the filter of its label and scaled to a largest value of 255."""
    inputs, padding = rows.inputs.clone(), filters.shape[-1] // 2
    for label in rows.labels.unique():
        mine = rows.labels == label
        planes = rows.inputs[mine].float().flatten(0, 1)[:, None]
        blurred = F.conv2d(planes, filters[label][None, None], padding=padding).view(inputs[mine].shape)
        brightest = blurred.amax((1, 2, 3), keepdim=True).clamp_min(1.0)  # a black picture stays black
        inputs[mine] = (255 * blurred / brightest).round().clamp(0, 255).to(torch.uint8)
    return inputs
