"""Noise on images within a limit that follows the sign of a gradient, and differentiable augmentation.

Shape letters: R poisons, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.rng import Key

FALLS = (3 / 8, 5 / 8, 7 / 8)  # shares of the steps after which the step size falls by a factor of ten


class Noise:
    """The noise of one restart. It starts as normal noise with the limit as its deviation, cut to the limit, and follows signed Adam.

    Args:
        images: (R, C, H, W) uint8 base rows.
        limit: largest change of a pixel, in grey levels.
        step: size of the first steps, in grey levels.
        steps: number of steps.
        rng: for the start.
    """

    def __init__(self, images: Tensor, *, limit: float, step: float, steps: int, rng: Key) -> None:
        self.clean, self.limit = images.float(), limit
        drawn = (torch.randn(self.clean.shape, generator=rng.torch()) * limit).clamp(-limit, limit)
        self.values = within(drawn, self.clean, limit).requires_grad_()
        self._optimizer = torch.optim.Adam([self.values], lr=step)
        self._falls = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, [int(steps * share) for share in FALLS])

    @property
    def images(self) -> Tensor:
        """(R, C, H, W) float32 poisons; gradients pass to the noise."""
        return self.clean + self.values

    def follow(self, gradient: Tensor) -> None:
        """Take one step of Adam against the sign of the (R, C, H, W) gradient of the loss, and return to the limit."""
        self.values.grad = gradient.sign()
        self._optimizer.step()
        self._falls.step()
        with torch.no_grad():
            self.values.copy_(within(self.values, self.clean, self.limit))

    def poisons(self) -> Tensor:
        """Return (R, C, H, W) uint8 poisons: the noise is rounded to whole grey levels, and stays within the limit."""
        whole = math.floor(self.limit)
        return (self.clean + self.values.detach().round().clamp(-whole, whole)).to(torch.uint8)


def within(noise: Tensor, clean: Tensor, limit: float) -> Tensor:
    """Return the noise clipped to the limit and to pixels in 0..255."""
    return (clean + noise.clamp(-limit, limit)).clamp(0, 255) - clean


def augmented(inputs: Tensor, draws_B3: Tensor, shift: float, *, flip: bool) -> Tensor:
    """Return mirrored and shifted images (bilinear, zeros from outside), differentiable with respect to the pixels.

    Args:
        inputs: (B, C, H, W) float32.
        draws_B3: uniform in [0, 1), for the shift along the width, the shift along the height, and the mirror.
        shift: largest shift, in pixels.
        flip: mirror the images whose draw is below one half.
    """
    height, width = inputs.shape[2:]
    mirror = torch.where((draws_B3[:, 2] < 0.5) & torch.tensor(flip), -1.0, 1.0)
    moves = (2 * draws_B3[:, :2] - 1) * shift * 2 / torch.tensor([width, height])
    zeros, ones = torch.zeros(len(inputs)), torch.ones(len(inputs))
    theta = torch.stack([torch.stack([mirror, zeros, moves[:, 0]], 1), torch.stack([zeros, ones, moves[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, align_corners=False)
