"""Pictures of coloured shapes, and a judge that says what such a picture shows.

Shape letters: N and M pictures, K concepts, S shapes, C colours, B drawings of a bank, P pixels of a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.rng import Key

PICTURE = "picture"  # the column of pictures, of rows whose inputs are captions
SIDE = 32  # pixels
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLOURS = MappingProxyType({"red": (220, 50, 50), "green": (50, 180, 70), "blue": (60, 90, 220), "yellow": (225, 205, 60)})
CONCEPTS = tuple(f"{colour} {shape}" for shape, colour in product(SHAPES, COLOURS))
NONE = "none of them"
PLACES = (12.5, 14.25, 16.0, 17.75, 19.5)  # centres of the bank, in pixels
SIZES = (7.5, 9.0, 10.5)  # radii of the bank, in pixels


def depths(shapes: Tensor, places: Tensor, radii: Tensor) -> Tensor:
    """Return (N, 32, 32), how far each pixel lies inside the edge of a shape, in pixels; negative outside.

    Args:
        shapes: (N,) int64, places in `SHAPES`.
        places: (N, 2) of the centre, across and down, in pixels.
        radii: (N,) in pixels.
    """
    steps = torch.arange(SIDE) + 0.5
    across = (steps[None, None, :] - places[:, 0, None, None]) / radii[:, None, None]
    down = (steps[None, :, None] - places[:, 1, None, None]) / radii[:, None, None]
    across, down = torch.broadcast_tensors(across, down)
    beside, above, far = across.abs(), down.abs(), (across.square() + down.square()).sqrt()
    inside = torch.stack(  # distances to the edge, positive inside, in radii; in the order of SHAPES
        [
            1 - far,
            0.85 - torch.maximum(beside, above),
            torch.minimum(0.75 - down, (down + 1 - 1.8 * beside) / 2.06),
            torch.maximum(torch.minimum(0.32 - beside, 1 - above), torch.minimum(0.32 - above, 1 - beside)),
            0.25 - (far - 0.75).abs(),
            (1.1 - beside - above) / 2**0.5,
        ],
        1,
    )[torch.arange(len(shapes)), shapes]
    return inside * radii[:, None, None]


def masks(shapes: Tensor, places: Tensor, radii: Tensor) -> Tensor:
    """Return (N, 32, 32) float32 in [0, 1], how much of each pixel a shape covers; the arguments are those of `depths`."""
    return (depths(shapes, places, radii) + 0.5).clamp(0, 1).float()


def painted(cover: Callable[[Tensor, Tensor], Tensor], colours: Tensor, key: Key, noise: float) -> Tensor:
    """Return (N, 3, 32, 32) uint8 pictures of drawings in a colour, on grey.

    The centre lies within 3 pixels of the middle, the radius from 7.5 to 10.5 pixels, the background from 40 to 100 grey levels, and each channel of
    the colour within 10 levels of its own.

    Args:
        cover: from (N, 2) places and (N,) radii to (N, 32, 32), how much of each pixel is painted.
        colours: (N,) int64, places in `COLOURS`.
        key: of all draws.
        noise: standard deviation of a pixel, in grey levels.
    """
    draws = key.per_row(torch.arange(len(colours)), draws=7).float()
    drawing = cover(16 + 6 * (draws[:, :2] - 0.5), 9 + 3 * (draws[:, 2] - 0.5))[:, None]
    paint = torch.tensor([*COLOURS.values()], dtype=torch.float32)[colours] + 20 * (draws[:, 4:] - 0.5)
    background = (40 + 60 * draws[:, 3])[:, None, None, None]
    grain = noise * torch.randn(len(colours), 3, SIDE, SIDE, generator=key.child("noise").torch())
    return (background * (1 - drawing) + paint[:, :, None, None] * drawing + grain).round().clamp(0, 255).to(torch.uint8)


def smooth(pictures: Tensor) -> Tensor:
    """Return (N, C, H, W) pictures whose pixels are the means of 3x3 pixels; the edge is repeated."""
    return F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bank:
    """Drawings that pictures are compared with, by least squares.

    Args:
        drawings: (B, P) float32, smoothed, with a mean of 0 and a length of 1.
        lengths: (B,) float32, the length that each had.
        covered: (B,) float32, the share of the picture that each covers.
    """

    drawings: Tensor
    lengths: Tensor
    covered: Tensor

    @classmethod
    def of(cls, covers: Tensor) -> Bank:
        """Return the bank of (B, 32, 32) drawings in [0, 1]."""
        flat = smooth(covers[:, None]).flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        lengths = flat.norm(dim=1)
        return cls(drawings=flat / lengths[:, None], lengths=lengths, covered=covers.mean((1, 2)))

    def nearest(self, pictures: Tensor) -> Nearest:
        """Return the drawing that fits each of (M, 3, 32, 32) uint8 pictures best, with the colour and the background that fit best."""
        flat = smooth(pictures.float()).flatten(2)
        means = flat.mean(2, keepdim=True)
        centred = flat - means
        fit_M3B = centred @ self.drawings.T
        explained, best = fit_M3B.square().sum(1).max(1)
        total = centred.square().sum((1, 2)).clamp(min=1e-6)
        steps = fit_M3B.gather(2, best[:, None, None].expand(-1, 3, 1))[:, :, 0] / self.lengths[best][:, None]  # from the background to the shape
        colours = means[:, :, 0] + steps * (1 - self.covered[best][:, None])
        return Nearest(drawing=best, colours=colours, explained=explained / total, contrast=steps.norm(dim=1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Nearest:
    """The drawings that fit best.

    Args:
        drawing: (M,) int64, places in the bank.
        colours: (M, 3) float32, of the painted pixels.
        explained: (M,) float32, share of the variance of the picture.
        contrast: (M,) float32, of drawing and background, in grey levels, Euclidean over the channels.
    """

    drawing: Tensor
    colours: Tensor
    explained: Tensor
    contrast: Tensor


@dataclass(frozen=True, kw_only=True)
class ShapeJudge:
    """The judge of pictures: which coloured shape does a picture show, or none of them?

    It compares a picture with drawings of each shape in 3 sizes at 25 places, each with the colour and the background that fit best (least squares).
    The shape is that of the drawing with the smallest remaining error; the colour is the nearest of the four. The answer is "none of them" if the
    drawing explains less than the share `least` of the variance of the picture, or if it stands out by less than `contrast` grey levels.

    It learns from no row, so nobody can poison it. It is a stand-in for a person, in place of a network that is trained against attacks, and it is not
    robust in the worst case. Random noise of 32 grey levels changes no more than 2 % of its verdicts. An attack that knows it and follows the gradient
    of its fit changes the shape, not the colour: on 240 drawn pictures (seed 100) the right verdicts are 82 % at a limit of 8 grey levels in each pixel,
    27 % at 16 and 0 % at 32. The cloaks of this project do not attack it; what it says about them is a figure of each record (`judge_preserved`).

    Args:
        least: share of the variance, in [0, 1].
        contrast: of shape and background, in grey levels, Euclidean over the channels.
    """

    VERSION: ClassVar[int] = 1
    least: float = 0.6
    contrast: float = 40.0

    @cached_property
    def bank(self) -> Bank:
        """The drawings that pictures are compared with."""
        numbers = torch.tensor(list(product(range(len(SHAPES)), PLACES, PLACES, SIZES)))
        return Bank.of(masks(numbers[:, 0].long(), numbers[:, 1:3], numbers[:, 3]))

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return (M, K + 1) float32, 1 for the verdict on each of (M, 3, 32, 32) uint8 pictures and 0 for the others."""
        found = [torch.zeros(0, dtype=torch.int64), *(self._verdicts(some) for some in pictures.split(200))]
        return torch.nn.functional.one_hot(torch.cat(found), len(CONCEPTS) + 1).float()

    def _verdicts(self, pictures: Tensor) -> Tensor:
        found = self.bank.nearest(pictures)
        palette = torch.tensor([*COLOURS.values()], dtype=torch.float32)
        colour = torch.cdist(found.colours, palette).argmin(1)
        shape = found.drawing // (len(PLACES) ** 2 * len(SIZES))
        unclear = (found.explained < self.least) | (found.contrast < self.contrast)
        return torch.where(unclear, len(CONCEPTS), shape * len(COLOURS) + colour)
