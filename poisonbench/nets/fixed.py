"""Feature maps without parameters: the features of a picture depend on that picture only, so no training row can change them.

Shape letters: M rows, C channels, H height, W width, F filters, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # the usual name

from poisonbench.core.errors import ConfigError
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.reals import NUMBERS
from poisonbench.nets.pictures import TINY, deskewed, gabor, opponents


class FixedMap(Protocol):
    """A feature map, as a frozen dataclass."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse inputs of a shape that the map cannot use.

        Raises:
            ConfigError: the shape that it needs.
        """
        ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, D) float32 from (M, C, H, W) pixels 0..255."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The inputs themselves, scaled to length 1."""

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse nothing."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, D) from inputs of any shape."""
        return F.normalize(inputs.float().flatten(1))


@dataclass(frozen=True, kw_only=True)
class Moduli:
    """Pooled moduli of Gabor filters: the strength of each orientation and scale by position.

    Source: first-order scattering (Bruna and Mallat, "Invariant Scattering Convolution Networks", TPAMI 2013, section 2) with Gabor
    filters for wavelets; `second` adds their second order: moduli of coarser filters over the moduli of finer ones.
    Moduli are divided by the picture's mean modulus, averaged over windows, square-rooted, and scaled to length 1; those of
    several channels are joined. Colours are converted to opponents: red against green, yellow against blue, and grey.

    Args:
        orientations: number of orientations over half a turn.
        wavelengths: of the filters, in pixels.
        window: side of the windows that moduli are averaged over.
        stride: from one window to the next.
        step: moduli are taken at every `step`-th pixel; they change slowly, over half a wavelength and more.
        second: whether to add the second order.
        deskew: first shear each picture upright, by its second moments; for figures on a dark background.
        colours: cells per side of a grid whose mean colours are added to the features; 0 is none.
        colour_weight: length of the colour part, where that of the moduli is 1.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    orientations: int
    wavelengths: tuple[float, ...]
    window: int
    stride: int
    step: int
    second: bool
    deskew: bool
    colours: int
    colour_weight: float

    def __post_init__(self) -> None:
        """Refuse filters that cannot be built."""
        if min(self.orientations, self.window, self.stride, self.step, len(self.wavelengths)) < 1 or min((2.0, *self.wavelengths)) < 2:
            raise ConfigError("moduli: give 1 or more for orientations, window, stride and step, and at least one wavelength, each of 2 pixels or more")
        if self.window % self.step or self.stride % self.step:
            raise ConfigError(f"moduli: window={self.window} and stride={self.stride} need to be multiples of step={self.step}")
        if self.second and self.step > 1:
            raise ConfigError("moduli: the second order needs the moduli of the first order at every pixel; set step=1")
        if self.colours < 0 or self.colour_weight < 0:
            raise ConfigError("moduli: give 0 or more for colours and colour_weight")

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse inputs that are not pictures, or are smaller than a window."""
        _check_picture(shape, self.window)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, D)."""
        pictures = opponents(inputs.float() / 255)
        pictures = deskewed(pictures) if self.deskew else pictures
        parts = [F.normalize(self._moduli(pictures[:, channel : channel + 1])) for channel in range(pictures.shape[1])]
        features = F.normalize(torch.cat(parts, 1))
        if self.colours:
            cells = F.normalize(F.adaptive_avg_pool2d(pictures, self.colours).flatten(1))
            features = torch.cat([features, self.colour_weight * cells], 1)
        return F.normalize(features)

    def _moduli(self, plane: Tensor) -> Tensor:
        first = [self._modulus(plane, length) for length in self.wavelengths]
        bands = torch.cat(first, 1)
        pooled = [self._pooled(bands)]
        if self.second:
            for place, finer in enumerate(first):
                for length in self.wavelengths[place + 1 :]:
                    again = self._modulus(finer.flatten(0, 1)[:, None], length).unflatten(0, finer.shape[:2])
                    pooled.append(self._pooled(again.flatten(1, 2)))
        return torch.cat(pooled, 1)

    def _modulus(self, plane_M1HW: Tensor, length: float) -> Tensor:
        bank = gabor(self.orientations, length).to(plane_M1HW.device)
        side = bank.shape[-1] // 2
        mode = "reflect" if side < min(plane_M1HW.shape[2:]) else "replicate"
        response = F.conv2d(F.pad(plane_M1HW, (side, side, side, side), mode=mode), bank, stride=self.step)
        even, odd = response.chunk(2, 1)
        return (even.square() + odd.square()).sqrt()

    def _pooled(self, bands: Tensor) -> Tensor:
        bands = bands / bands.mean((1, 2, 3), keepdim=True).clamp_min(TINY)
        return F.avg_pool2d(bands, self.window // self.step, self.stride // self.step).clamp_min(0).sqrt().flatten(1)


@dataclass(frozen=True, kw_only=True)
class Hog:
    """Histograms of oriented gradients.

    Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005: gradients by centred differences, in
    the channel where they are longest; each votes with its length, shared between the two nearest bins of its cell; blocks of 2x2
    adjacent cells are scaled to length 1, cut off at 0.2 and scaled again.

    Args:
        bins: number of orientations over half a turn.
        cell: side of a cell, in pixels.
        stride: from one cell to the next, in pixels; if it is smaller than a cell, cells overlap and there are more blocks.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    bins: int
    cell: int
    stride: int

    def __post_init__(self) -> None:
        """Refuse invalid numbers."""
        if min(self.bins, self.cell, self.stride) < 1:
            raise ConfigError(f"hog: bins={self.bins}, cell={self.cell}, stride={self.stride}: give 1 or more of each")
        if self.cell % self.stride:
            raise ConfigError(f"hog: cell={self.cell} needs to be a multiple of stride={self.stride}, so that cells are adjacent")

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse inputs that are not pictures, or are smaller than a block."""
        _check_picture(shape, 2 * self.cell)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, D)."""
        padded = F.pad(inputs.float() / 255, (1, 1, 1, 1), mode="replicate")
        across, down = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2], padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        lengths = (across.square() + down.square()).sqrt()
        length, channel = lengths.max(1, keepdim=True)
        angle = torch.atan2(down.gather(1, channel), across.gather(1, channel)) % math.pi
        place = angle / math.pi * self.bins - 0.5
        lower = place.floor()
        share = place - lower
        bands = length.new_zeros(len(inputs), self.bins, *length.shape[2:])
        for nearest, part in ((lower, 1 - share), (lower + 1, share)):
            bands.scatter_add_(1, nearest.long() % self.bins, length * part)
        cells = F.avg_pool2d(bands, self.cell, self.stride)
        blocks = F.unfold(cells, 2, dilation=self.cell // self.stride)  # (M, 4 bins, blocks)
        blocks = F.normalize(F.normalize(blocks, dim=1).clamp_max(0.2), dim=1)
        return F.normalize(blocks.flatten(1))


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Histograms of colour without brightness, one for each cell of a grid.

    Source: the opponent colour space of van de Sande, Gevers and Snoek, "Evaluating Color Descriptors for Object and Scene Recognition",
    TPAMI 2010, with one joint histogram of red against green and yellow against blue (Swain and Ballard, "Color Indexing", IJCV 1991)
    instead of one for each. Pixels vote for bins by a Gaussian, so that a small change of colour is a small change of features; the
    square root of the shares is scaled to length 1.

    Args:
        bins: number of bins of each axis, evenly from -0.5 to 0.5; colours of full strength are at 0.7 and 0.8.
        width: standard deviation of a vote, in bins.
        cells: cells per side of the grid.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    bins: int
    width: float
    cells: int

    def __post_init__(self) -> None:
        """Refuse invalid numbers."""
        if self.bins < 2 or self.cells < 1 or not self.width > 0:
            raise ConfigError(f"colours: bins={self.bins}, width={self.width}, cells={self.cells}: give 2 bins or more, a width above 0, and 1 cell or more")

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse inputs without colours."""
        _check_picture(shape, self.cells)
        if shape[0] != 3:
            raise ConfigError(f"features: inputs of shape {shape} have no colours; choose features of grey pictures, such as gabor")

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, D)."""
        colour = opponents(inputs.float() / 255)[:, :2, None]
        places = torch.linspace(-0.5, 0.5, self.bins, device=inputs.device)[:, None, None]
        votes = torch.exp(-0.5 * ((colour - places) * ((self.bins - 1) / self.width)).square())
        joint = (votes[:, 0, :, None] * votes[:, 1, None]).flatten(1, 2)
        return F.normalize(F.adaptive_avg_pool2d(joint, self.cells).sqrt().flatten(1))


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The joined features of two maps, scaled to length 1 together: their kernels multiply.

    Args:
        first: a map.
        second: another.
        weight: length of the second's features, where that of the first's is 1.
    """

    VERSION: ClassVar[int] = 1
    first: FixedMap
    second: FixedMap
    weight: float

    def __post_init__(self) -> None:
        """Refuse a negative length."""
        if self.weight < 0:
            raise ConfigError(f"features: weight={self.weight}; give 0 or more")

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse inputs that one of the maps refuses."""
        self.first.check(shape)
        self.second.check(shape)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, D of both)."""
        return F.normalize(torch.cat([self.first(inputs), self.weight * self.second(inputs)], 1))


def _check_picture(shape: tuple[int, ...], side: int) -> None:
    if len(shape) != 3 or min(shape[1:]) < side:
        raise ConfigError(f"features: inputs of shape {shape}; these features need pictures of {side}x{side} pixels or more")
