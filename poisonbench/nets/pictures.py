"""Parts of fixed features: banks of filters, opponent colours, deskewed figures.

Shape letters: F filters.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F  # the usual name

TINY = 1e-6


@cache
def gabor(orientations: int, length: float) -> Tensor:
    """Return (2F, 1, side, side): for each orientation the cosine, then for each the sine, of a wave times a Gaussian.

    The Gaussian's standard deviation is half a wavelength. The mean of the cosine is subtracted, so that a flat picture gives zero. The
    absolute values of each filter sum to 1.

    Args:
        orientations: F, over half a turn.
        length: wavelength, in pixels.
    """
    side = math.ceil(1.25 * length)
    down, across = torch.meshgrid(*[torch.arange(-side, side + 1, dtype=torch.float64)] * 2, indexing="ij")
    window = torch.exp(-(down.square() + across.square()) / (2 * (length / 2) ** 2))
    even, odd = [], []
    for step in range(orientations):
        turn = math.pi * step / orientations
        phase = 2 * math.pi / length * (across * math.cos(turn) + down * math.sin(turn))
        cosine = window * phase.cos()
        cosine = cosine - window * (cosine.sum() / window.sum())
        sine = window * phase.sin()
        even.append(cosine / cosine.abs().sum())
        odd.append(sine / sine.abs().sum())
    return torch.stack(even + odd)[:, None].float()


def opponents(pictures: Tensor) -> Tensor:
    """Return red against green, yellow against blue and grey from red, green and blue; other pictures as they are."""
    if pictures.shape[1] != 3:
        return pictures
    red, green, blue = pictures.unbind(1)
    return torch.stack([(red - green) / 2**0.5, (red + green - 2 * blue) / 6**0.5, (red + green + blue) / 3**0.5], 1)


def deskewed(pictures: Tensor) -> Tensor:
    """Shear each picture about its centre of mass until it is upright, and move that centre to the middle.

    Brightness is mass: with second moments m, row y moves by (m_xy / m_yy) (y - its mean). A picture without mass does not change.
    """
    rows, height, width = len(pictures), *pictures.shape[2:]
    mass = pictures.sum(1)
    down = torch.arange(height, dtype=mass.dtype, device=mass.device)[:, None].expand(height, width)
    across = torch.arange(width, dtype=mass.dtype, device=mass.device)[None].expand(height, width)
    total = mass.sum((1, 2)).clamp_min(TINY)
    middle_y, middle_x = (mass * down).sum((1, 2)) / total, (mass * across).sum((1, 2)) / total
    off_y, off_x = down - middle_y[:, None, None], across - middle_x[:, None, None]
    spread = (mass * off_y.square()).sum((1, 2)) / total
    slant = (mass * off_y * off_x).sum((1, 2)) / total / spread.clamp_min(TINY)
    slant = torch.where(spread > TINY, slant, 0.0)
    middle_x = torch.where(mass.sum((1, 2)) > TINY, middle_x, (width - 1) / 2)
    middle_y = torch.where(mass.sum((1, 2)) > TINY, middle_y, (height - 1) / 2)
    wanted_y = down - (height - 1) / 2
    source_y = wanted_y + middle_y[:, None, None]
    source_x = (across - (width - 1) / 2) + slant[:, None, None] * wanted_y + middle_x[:, None, None]
    grid = torch.stack([2 * source_x / (width - 1) - 1, 2 * source_y / (height - 1) - 1], -1)
    assert grid.shape == (rows, height, width, 2)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
