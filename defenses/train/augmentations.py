"""Strong random changes of pictures: plasma light, shuffled channels, and one operation of TrivialAugment.

Shape letters: B rows, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import equalize

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
OCTAVES = 5  # grids of 2, 3, 5, 9 and 17 points
SHARE = 0.9  # of brightness, contrast and sharpness that an operation may add or remove
ANGLE, SHEAR, SHIFT = math.pi / 6, 0.3, 0.5  # the largest, in radians, as a slope, and as a share of the picture's side

Operation = Callable[[Tensor, Tensor], Tensor]  # from (B, C, H, W) and (B, 1, 1, 1) strengths in [-1, 1]


def plasma(shape: tuple[int, int, int], roughness_B: Tensor, generator: torch.Generator) -> Tensor:
    """Return (B, 1, H, W) smooth random fields with values from 0 to 1: a sum of random grids, each twice as fine as the one before.

    Args:
        shape: B, H and W.
        roughness_B: in (0, 1), the amplitude of a grid divided by that of the one before.
        generator: of the random numbers.
    """
    rows, *size = shape
    field = torch.zeros(rows, 1, *size)
    for octave in range(OCTAVES):
        grid = torch.rand(rows, 1, 2**octave + 1, 2**octave + 1, generator=generator)
        field += roughness_B.view(-1, 1, 1, 1) ** octave * F.interpolate(grid, size, mode="bilinear", align_corners=True)
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return (field - low) / (high - low).clamp_min(1e-6)


def brightened(inputs: Tensor, field: Tensor, intensity_B: Tensor) -> Tensor:
    """Add light that varies over the picture, by up to `intensity` of 255 in both directions."""
    return (inputs + 255 * intensity_B.view(-1, 1, 1, 1) * (2 * field - 1)).clamp(0, 255)


def contrasted(inputs: Tensor, field: Tensor) -> Tensor:
    """Multiply the distance from middle grey by a factor from 0 to 4 that varies over the picture."""
    return ((inputs - 127.5) * 4 * field + 127.5).clamp(0, 255)


def shuffled(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Put the channels of each picture in a random order."""
    order = torch.rand(inputs.shape[:2], generator=generator).argsort(1)
    return inputs.gather(1, order[:, :, None, None].expand(inputs.shape))


def trivially_augmented(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Change each picture by one operation, drawn uniformly, of a strength drawn uniformly (Mueller and Hutter, ICCV 2021)."""
    which = torch.randint(0, len(OPERATIONS), (len(inputs),), generator=generator)
    strengths = (2 * torch.rand(len(inputs), generator=generator) - 1).view(-1, 1, 1, 1)
    changed = inputs.clone()
    for number, operation in enumerate(OPERATIONS):
        if len(mine := (which == number).nonzero()[:, 0]):
            changed[mine] = operation(inputs[mine], strengths[mine]).clamp(0, 255)
    return changed


def stretched(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a flat channel stays."""
    low, high = inputs.amin((2, 3), keepdim=True), inputs.amax((2, 3), keepdim=True)
    return torch.where(high > low, 255 * (inputs - low) / (high - low).clamp_min(1e-6), inputs)


def equalized(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Equalise the histogram of each channel."""
    flat: Tensor = equalize(inputs.round().to(torch.uint8))
    return flat.to(inputs.dtype)


def posterized(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Keep 4 to 8 bits of each value."""
    step = 2.0 ** (4 * strengths.abs()).round()
    return (inputs / step).floor() * step


def solarized(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Invert the values from a threshold on; the stronger, the lower the threshold."""
    return torch.where(inputs >= 256 * (1 - strengths.abs()), 255 - inputs, inputs)


def lit(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Multiply the brightness by 0.1 to 1.9."""
    return inputs * (1 + SHARE * strengths)


def spread(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Multiply the distance from the mean grey of the picture by 0.1 to 1.9."""
    weights = torch.tensor(LUMA) if inputs.shape[1] == 3 else torch.full((inputs.shape[1],), 1 / inputs.shape[1])
    mean = (inputs * weights.view(1, -1, 1, 1)).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return mean + (1 + SHARE * strengths) * (inputs - mean)


def sharpened(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Multiply the distance from a smoothed picture by 0.1 to 1.9."""
    kernel = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]).expand(inputs.shape[1], 1, 3, 3) / 13
    smooth = F.conv2d(F.pad(inputs, (1, 1, 1, 1), mode="replicate"), kernel, groups=inputs.shape[1])
    return smooth + (1 + SHARE * strengths) * (inputs - smooth)


def _mapped(inputs: Tensor, entries: dict[tuple[int, int], Tensor]) -> Tensor:
    """Return the pictures under an affine map that is the identity except for these entries; black from outside."""
    theta = torch.eye(2, 3).repeat(len(inputs), 1, 1)
    for (row, column), values in entries.items():
        theta[:, row, column] = values.flatten()
    grid = F.affine_grid(theta, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, align_corners=False)


def rotated(inputs: Tensor, strengths: Tensor) -> Tensor:
    """Rotate by up to 30 degrees, on pictures of any ratio of sides as if they were square."""
    cosine, sine = (strengths * ANGLE).cos(), (strengths * ANGLE).sin()
    return _mapped(inputs, {(0, 0): cosine, (0, 1): -sine, (1, 0): sine, (1, 1): cosine})


OPERATIONS: tuple[Operation, ...] = (
    stretched,
    equalized,
    posterized,
    solarized,
    lit,
    spread,
    sharpened,
    rotated,
    lambda inputs, strengths: _mapped(inputs, {(0, 1): SHEAR * strengths}),  # shear along the width, then along the height
    lambda inputs, strengths: _mapped(inputs, {(1, 0): SHEAR * strengths}),
    lambda inputs, strengths: _mapped(inputs, {(0, 2): 2 * SHIFT * strengths}),  # shift along the width, then along the height
    lambda inputs, strengths: _mapped(inputs, {(1, 2): 2 * SHIFT * strengths}),
)
