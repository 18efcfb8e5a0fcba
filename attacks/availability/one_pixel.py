"""One-pixel shortcut (OPS): one pixel of each picture gets a fixed colour of its class.

Shape letters: N rows, C channels, H height, W width, P pixels, V colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.availability.noise import changed, limit_of
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES

TINY = 1e-9


@dataclass(frozen=True, kw_only=True)
class OnePixel:
    """Set the pixel of each class that differs most steadily from a fixed colour to that colour, in all rows of the class.

    Source: Wu, Chen, Xie, Huang, "One-Pixel Shortcut: On the Learning Preference of Deep Neural Networks", ICLR 2023.

    For each class, each pixel p and each corner v of the colour cube, the score is mean |v - x_p| / std |v - x_p|, over the rows of the class and
    the channels. The class gets the pair (p, v) with the largest score that no class before it has. A budget of several pixels gives a class as
    many pairs, with different pixels.

    Differences: with several pixels, the authors' code may set one pixel of a class twice. The method draws nothing at random: if all rows may change,
    every seed gives the same poison.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with new pixels in as many of them as the budget allows.

        Raises:
            ConfigError: the budget does not limit the number of pixels, or to less than one.
        """
        count = int(limit_of(known, "pixels", "unlearnable_pixel"))
        return changed(known, rng, lambda rows: shortcuts(rows, count))


def shortcuts(rows: Dataset, count: int) -> Tensor:
    """Return (N, C, H, W) uint8 pictures with `count` pixels of each class set to that class's colours."""
    colours_VC = corners(rows.inputs.shape[1])
    inputs, used = rows.inputs.clone(), torch.zeros(rows.inputs[0, 0].numel(), len(colours_VC), dtype=torch.bool)
    for label in rows.labels.unique():
        mine = rows.labels == label
        scores_PV = scores(rows.inputs[mine], colours_VC).masked_fill(used, -1)
        best = scores_PV.max(1)  # one colour for each pixel
        for place in best.values.argsort(descending=True, stable=True)[:count]:
            colour = best.indices[place]
            used[place, colour] = True
            row, column = divmod(int(place), inputs.shape[3])
            inputs[mine, :, row, column] = colours_VC[colour].to(torch.uint8)
    return inputs


def corners(channels: int) -> Tensor:
    """Return (V, C) float32, the corners of the colour cube, in 0 and 255."""
    return 255.0 * ((torch.arange(2**channels)[:, None] >> torch.arange(channels)) & 1)


def scores(inputs: Tensor, colours_VC: Tensor) -> Tensor:
    """Return (P, V), how steadily (N, C, H, W) pictures differ from each colour at each pixel; 0 where they all have it."""
    pixels_NCP = inputs.flatten(2).double()
    columns = []
    for colour_C in colours_VC:
        distances_MP = (colour_C[:, None] - pixels_NCP).abs().flatten(0, 1)
        columns.append(distances_MP.mean(0) / distances_MP.std(0, correction=0).clamp_min(TINY))
    return torch.stack(columns, 1)
