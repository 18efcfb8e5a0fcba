"""Triggers that are stamped on images.

Shape letters: M rows, C channels, H height, W width, S side of the patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import File
from poisonbench.decoders import picture

Position = Literal["bottom_right", "bottom_left", "top_right", "top_left", "center"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Patch:
    """A patch of pixels at a fixed position.

    Black pixels are stamped like any other. Some published code stamps only pixels above zero, so it cannot stamp black.

    Args:
        pixels: (C, S, S) uint8.
        mask: (S, S) bool, the pixels that are stamped.
        top: first row.
        left: first column.
    """

    VERSION: ClassVar[int] = 1
    pixels: Tensor
    mask: Tensor
    top: int
    left: int

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, C, H, W) copies with the patch."""
        stamped = inputs.clone()
        side = len(self.mask)
        window = stamped[:, :, self.top : self.top + side, self.left : self.left + side]
        window.copy_(torch.where(self.mask, self.pixels, window))
        return stamped


def all_to(target: int, num_classes: int) -> Tensor:
    """Return (K,) int64: the same target label for every true label.

    Raises:
        ConfigError: the target is not a class.
    """
    if not 0 <= target < num_classes:
        raise ConfigError(f"attack.data.target={target} is no class; {num_classes} classes allow 0 to {num_classes - 1}")
    return torch.full((num_classes,), target)


def images(shape: tuple[int, ...], what: str) -> tuple[int, int, int]:
    """Return channels, height and width of inputs of `shape`.

    Raises:
        ConfigError: the inputs are not images.
    """
    if len(shape) != 3:
        raise ConfigError(f"{what} needs images, not inputs of shape {shape}")
    return shape


def place(shape: tuple[int, ...], side: int, position: Position, margin: int) -> tuple[int, int]:
    """Return the first row and column of a patch in images of `shape` (C, H, W).

    Raises:
        ConfigError: the patch does not fit.
    """
    _, height, width = images(shape, "a patch")
    if side < 1 or margin < 0 or side + margin > min(height, width):
        advice = f"lower attack.data.size to {most}" if margin >= 0 and (most := min(height, width) - margin) > 0 else "set attack.data.margin=0"
        advice = advice if side > 0 else "set attack.data.size=1"
        raise ConfigError(f"a patch of {side}x{side} with margin {margin} does not fit {height}x{width} images; {advice}")
    low, right = height - side - margin, width - side - margin
    corners = {"bottom_right": (low, right), "bottom_left": (low, margin), "top_right": (margin, right), "top_left": (margin, margin)}
    return corners.get(position, ((height - side) // 2, (width - side) // 2))


def drawn(pattern: Literal["white", "checkerboard"], channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Return pixels (C, S, S) and mask (S, S) of a pattern; the top left pixel of a checkerboard is white."""
    squares = torch.arange(side)[:, None] + torch.arange(side)[None]
    white = torch.ones(side, side, dtype=torch.bool) if pattern == "white" else squares % 2 == 0
    return (white * 255).to(torch.uint8).expand(channels, side, side).clone(), torch.ones(side, side, dtype=torch.bool)


def from_file(image: File, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return pixels (C, H, W) and mask (H, W) of an image file, scaled to `size` (H, W); transparent pixels are not in the mask.

    Raises:
        DataError: the file is not an image, or the inputs do not have 1 or 3 channels.
    """
    if channels not in (1, 3):
        raise DataError(f"a trigger from a file needs images of 1 or 3 channels, not {channels}")
    scaled = picture(Path(image.path).expanduser().read_bytes(), "RGBA", image.path).resize((size[1], size[0]))
    rgba = torch.tensor(list(scaled.convert("RGB").convert("L" if channels == 1 else "RGB").tobytes()), dtype=torch.uint8)
    alpha = torch.tensor(list(scaled.getchannel("A").tobytes()), dtype=torch.uint8)
    return rgba.reshape(*size, channels).permute(2, 0, 1).contiguous(), alpha.reshape(size) > 127
