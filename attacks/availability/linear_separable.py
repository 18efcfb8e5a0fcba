"""Linearly separable perturbations (LSP): noise that names the class, made without any model.

Shape letters: N rows, K classes, P patches per side, C channels, D numbers that are drawn for a row, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.availability.noise import changed, limit_of, normal, perturbed, scaled, whole
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES

LARGEST = 1e6  # separation
LOW = 20  # coordinates in which the vertices of the classes are drawn without replacement


@dataclass(frozen=True, kw_only=True)
class LinearSeparable:
    """Add noise from well separated Gaussian clusters, one per class, so that the noise alone shows the label.

    Source: Yu, Zhang, Chen, Yin, Liu, "Availability Attacks Create Shortcuts", KDD 2022. The clusters are those of scikit-learn's
    `make_classification` with one cluster per class and no redundant or noisy features; they are written here from its formula.

    Class k has a vertex v_k of the cube {-separation, separation}^D and a matrix A_k with entries uniform in [-1, 1]. A row of the class draws
    z ~ N(0, 1)^D; its noise is v_k + z A_k. The D = P * P * C numbers are P x P patches of constant colour. Each row's noise is scaled to the L2
    limit of the budget.

    Differences: rounding to whole grey levels keeps the limit; the authors' code cuts off the fraction. In the authors' code the length is that of
    6 grey levels on every value, 332 for 32x32 colour images. threat=unlearnable_l2 allows 255, like the later comparisons (1.0 on pixels in [0, 1]).

    Args:
        patches: P, patches per side, 1 or more (authors' code: 4, of 8x8 pixels).
        separation: half of the distance between two neighbouring vertices, above 0, at most 1e6 (authors' code: 10).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    patches: int
    separation: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.patches < 1 or not 0 < self.separation <= LARGEST:
            raise ConfigError(f"attack.data: patches is 1 or more, separation a number above 0 and at most {LARGEST:g}")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with noise on as many of them as the budget allows.

        Raises:
            ConfigError: the budget has no L2 limit of 1 or more, more patches than pixels a side, or there are fewer patterns of patches than classes.
        """
        limit = limit_of(known, "l2", "unlearnable_l2")
        if self.patches > (side := min(known.rows.inputs.shape[2:])):
            raise ConfigError(f"attack.data.patches={self.patches}: the pictures have {side} pixels a side; give no more patches than that")
        return changed(known, rng, lambda rows: perturbed(rows.inputs, whole(self.noise(rows, limit, rng), limit)))

    def noise(self, rows: Dataset, limit: float, rng: Key) -> Tensor:
        """Return (N, C, H, W) noise of length `limit`, before rounding."""
        channels, height, width = rows.inputs.shape[1:]
        drawn = self.patches**2 * channels
        vertices_KD = self.separation * (2 * vertices(rows.num_classes, drawn, rng.child("vertices")) - 1)
        mixing_KDD = 2 * torch.rand(rows.num_classes, drawn, drawn, generator=rng.child("mixing").torch(), dtype=torch.float64) - 1
        z_ND = normal(rng.child("noise"), rows.ids, drawn)
        points_ND = torch.zeros_like(z_ND)
        for label in rows.labels.unique():
            mine = rows.labels == label
            points_ND[mine] = vertices_KD[label] + z_ND[mine] @ mixing_KDD[label]
        tiles = points_ND.view(len(rows), channels, self.patches, self.patches)
        down, across = (torch.arange(side) * self.patches // side for side in (height, width))
        return scaled(tiles[:, :, down][:, :, :, across], limit)


def vertices(kinds: int, drawn: int, rng: Key) -> Tensor:
    """Return (K, D) float64 of zeros and ones, a different row for every class.

    Raises:
        ConfigError: fewer patterns than classes.
    """
    low = min(drawn, LOW)
    if kinds > 2**low:
        raise ConfigError(f"attack.data.patches gives {2**low} patterns for {kinds} classes; raise attack.data.patches")
    generator = rng.torch()
    numbers = torch.randperm(2**low, generator=generator)[:kinds]
    first = (numbers[:, None] >> torch.arange(low)) & 1
    rest = torch.randint(0, 2, (kinds, drawn - low), generator=generator)
    return torch.cat([first, rest], 1).double()
