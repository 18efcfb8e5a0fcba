"""Autoregressive perturbations (AR): noise that follows a linear recursion of its class, made without any model.

Shape letters: N rows, M processes, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.availability.noise import changed, limit_of, normal, perturbed, scaled, whole
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES

MOST = 100_000  # candidates, whose trial noise is in memory together
SIDE = 3  # of the window
CROP = 4  # first rows and columns that are dropped, as in the authors' code
PAPER_VALUES = 3 * 32 * 32  # of a picture, for which the paper's thresholds hold


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """Add noise in which each value is a fixed linear combination of its eight neighbours above and to the left.

    Source: Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, Jacobs, "Autoregressive Perturbations for Data Poisoning", NeurIPS 2022.

    A process has, for each channel, eight coefficients of a 3x3 window, drawn from N(0, 1) and divided by their sum. A row starts from normal noise on
    a picture with four more rows and columns. From the third row and column on, each value is replaced by the combination of its window. Then the
    first four rows and columns are dropped, and the rest is scaled to the L2 limit of the budget.

    Processes are drawn until each class has one. A process is kept if its noise stays small, and if the filters of all kept processes respond to it.
    The filter of a process, its coefficients with -1 for the value itself, is zero on its own noise.

    Differences: the authors published one set of coefficients per data set and use it for all seeds. Coefficients here are drawn for each seed, and
    the channels of a process are drawn until each stays small, not all at once. Users reported that a class of the published poison is black, from
    coefficients that are not numbers; here such a process is dropped. The smallest response grows with the square root of the number of values;
    the paper's holds for 32x32 colour images.

    Args:
        candidates: processes that are drawn, 1 to 100,000.
        bound: largest absolute value of a process's noise from normal noise of size 1, above 0 (authors' code: 5).
        response: smallest response of the filters of the processes that were kept before to noise of length 1 of a process, 0 or more (authors' code:
            10 for CIFAR-10, which few candidates reach here, and 3 for CIFAR-100).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    candidates: int
    bound: float
    response: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (1 <= self.candidates <= MOST and 0 < self.bound < math.inf and 0 <= self.response < math.inf):
            raise ConfigError(f"attack.data: candidates is a number from 1 to {MOST}, bound above 0 and response 0 or more, both finite")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with noise on as many of them as the budget allows.

        Raises:
            ConfigError: the budget has no L2 limit above 0, or too few processes fit together.
        """
        limit = limit_of(known, "l2", "unlearnable_l2")
        return changed(known, rng, lambda rows: perturbed(rows.inputs, whole(self.noise(rows, limit, rng), limit)))

    def noise(self, rows: Dataset, limit: float, rng: Key) -> Tensor:
        """Return (N, C, H, W) float64 noise of length `limit`, before rounding."""
        coefficients = self.processes(tuple(rows.inputs.shape[1:]), rows.num_classes, rng)
        return scaled(followed(start(rows.ids, rows.inputs.shape[1:], rng.child("start")), coefficients[rows.labels]), limit)

    def processes(self, shape: tuple[int, ...], kinds: int, rng: Key) -> Tensor:
        """Return (K, C, 3, 3) float64 coefficients, one process per class; the last of a window is zero.

        Raises:
            ConfigError: fewer than K of the candidates fit together.
        """
        drawn = torch.randn(self.candidates * shape[0], 1, SIDE, SIDE, generator=rng.child("processes").torch(), dtype=torch.float64)
        drawn[:, :, -1, -1] = 0
        drawn = drawn / drawn.sum((2, 3), keepdim=True)
        signals = followed(start(torch.arange(len(drawn)), (1, *shape[1:]), rng.child("trial")), drawn)
        largest = signals.flatten(1).abs().amax(1)
        small = (largest <= self.bound).nonzero()[:, 0]  # a sum near zero gives huge or infinite coefficients; NaN is not <= either
        small = small[: len(small) // shape[0] * shape[0]]
        drawn, signals = (part[small].view(-1, shape[0], *part.shape[2:]) for part in (drawn, signals))
        signals = scaled(signals, 1.0)
        least = self.response * (math.prod(shape) / PAPER_VALUES) ** 0.5
        kept = list[int]()
        for place in range(len(drawn)):
            if len(kept) < kinds and all(responses(drawn[other], signals[place]) >= least for other in kept):
                kept.append(place)
        if len(kept) < kinds:
            asked = f"attack.data.candidates={self.candidates}, response={self.response}"
            raise ConfigError(f"{asked}: {len(kept)} processes fit together, for {kinds} classes; raise candidates or lower response")
        return drawn[kept]


def start(ids_N: Tensor, shape: tuple[int, ...] | torch.Size, rng: Key) -> Tensor:
    """Return (N, C, H + 4, W + 4) float64, normal numbers that depend only on the row ids."""
    channels, height, width = shape[0], shape[1] + CROP, shape[2] + CROP
    return normal(rng, ids_N, channels * height * width).view(len(ids_N), channels, height, width)


def followed(signal: Tensor, coefficients: Tensor) -> Tensor:
    """Return (N, C, H, W), the noise of (N, C, 3, 3) processes that begin with (N, C, H + 4, W + 4) signals."""
    signal = signal.clone()
    for row in range(SIDE - 1, signal.shape[2]):
        for column in range(SIDE - 1, signal.shape[3]):
            window = signal[:, :, row - 2 : row + 1, column - 2 : column + 1]
            signal[:, :, row, column] = (window * coefficients).sum((2, 3))  # the coefficient of the value itself is zero
    return signal[:, :, CROP:, CROP:]


def responses(coefficients: Tensor, signal: Tensor) -> float:
    """Return the sum of the positive values that the filter of a (C, 3, 3) process gives on a (C, H, W) signal."""
    matching = coefficients.clone()
    matching[:, -1, -1] = -1
    return float(F.conv2d(signal[None], matching[None]).relu().sum())
