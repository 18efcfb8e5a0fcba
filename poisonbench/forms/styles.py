"""Pictures of coloured shapes in several styles of drawing, and a judge that says in which style such a picture is.

Shape letters: N and M pictures, S styles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.forms.shapes import COLOURS, PLACES, SHAPES, SIDE, SIZES, Bank, depths

STYLES = ("filled", "striped", "barred", "checked")
DRAWN = ("circle", "square", "triangle", "diamond")  # the other shapes are too thin for a pattern
SUBJECTS = tuple(f"{colour} {shape}" for shape, colour in product(DRAWN, COLOURS))
CELL = 4  # pixels of a cell of the checked style
STRIPE = 3  # pixels of a stripe or a bar, and of the gap after it


def covers(styles: Tensor, subjects: Tensor, places: Tensor, radii: Tensor) -> Tensor:
    """Return (N, 32, 32) float32 in [0, 1], how much of each pixel is painted.

    Stripes, which are horizontal, bars, which are vertical, and cells are fixed to the picture, not to the shape.

    Args:
        styles: (N,) int64, places in `STYLES`.
        subjects: (N,) int64, places in `SUBJECTS`.
        places: (N, 2) of the centre, across and down, in pixels.
        radii: (N,) in pixels.
    """
    shapes = torch.tensor([SHAPES.index(name) for name in DRAWN])[subjects // len(COLOURS)]
    filled = (depths(shapes, places, radii) + 0.5).clamp(0, 1)
    steps = torch.arange(SIDE)
    stripes = (steps // STRIPE % 2 == 0).float()[:, None].expand(SIDE, SIDE)
    cells = ((steps[:, None] // CELL + steps // CELL) % 2 == 0).float()
    drawings = [filled, filled * stripes, filled * stripes.T, filled * cells]
    return torch.stack(drawings, 1)[torch.arange(len(styles)), styles].float()


@dataclass(frozen=True, kw_only=True)
class StyleJudge:
    """The judge of pictures: in which style is a picture drawn, or in none of them?

    It compares a picture with drawings of four shapes in each style, in 3 sizes at 25 places, each with the colour and the background that fit best
    (least squares). The style is that of the drawing with the smallest remaining error. The answer is "none of them" if the drawing explains less than
    the share `least` of the variance of the picture, or if it stands out by less than `contrast` grey levels.

    It learns from no row, so nobody can poison it. On 800 drawn pictures (seed 100) it is always right, also with random noise of 16 grey levels, after a
    blur of 3x3 pixels and after JPEG at quality 75. With noise of 32 it is right on 99.5 %, and after JPEG at quality 30 on 65 %.

    It is a stand-in for a person, and like `ShapeJudge` it is not built to withstand an attack that follows the gradient of its fit. The cloaks of this
    project do not attack it; each record says what it sees on them (`judge_preserved`).

    Args:
        least: share of the variance, in [0, 1].
        contrast: of drawing and background, in grey levels, Euclidean over the channels.
    """

    VERSION: ClassVar[int] = 1
    least: float = 0.4
    contrast: float = 40.0

    @cached_property
    def bank(self) -> Bank:
        """The drawings that pictures are compared with."""
        numbers = torch.tensor(list(product(range(len(STYLES)), range(len(DRAWN)), PLACES, PLACES, SIZES)))
        return Bank.of(covers(numbers[:, 0].long(), numbers[:, 1].long() * len(COLOURS), numbers[:, 2:4], numbers[:, 4]))

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return (M, S + 1) float32, 1 for the verdict on each of (M, 3, 32, 32) uint8 pictures and 0 for the others."""
        found = [torch.zeros(0, dtype=torch.int64), *(self._verdicts(some) for some in pictures.split(200))]
        return torch.nn.functional.one_hot(torch.cat(found), len(STYLES) + 1).float()

    def _verdicts(self, pictures: Tensor) -> Tensor:
        found = self.bank.nearest(pictures)
        unclear = (found.explained < self.least) | (found.contrast < self.contrast)
        return torch.where(unclear, len(STYLES), found.drawing // (len(DRAWN) * len(PLACES) ** 2 * len(SIZES)))
