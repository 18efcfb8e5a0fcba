"""Feasible sets of the slab and the sphere: where a row of a class may lie, and which of these points a linear model scores lowest.

Shape letters: N rows, D columns, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError

TINY = 1e-300  # keeps the derivative of a root at 0 finite


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a feasible set is.

    Source: Steinhardt, Koh, Liang, "Certified Defenses for Data Poisoning Attacks", NeurIPS 2017.

    Args:
        sphere: share of the rows it is measured on that the sphere of a class keeps, in (0, 1].
        slab: the same for the slab.
        standardise: divide columns by the deviation of these rows; needed where columns have units, as in tables, and not for pixels.
    """

    VERSION: ClassVar[int] = 1
    sphere: float
    slab: float
    standardise: bool

    def __post_init__(self) -> None:
        """Check that the shares are in range."""
        if not (0 < self.sphere <= 1 and 0 < self.slab <= 1):
            raise ConfigError(f"defense: sphere={self.sphere} and slab={self.slab} are shares of rows to keep; give numbers in (0, 1]")


@dataclass(frozen=True, eq=False, kw_only=True)
class FeasibleSet:
    """For each class the points x with |x - centre| <= radius (sphere) and |(x - centre).axis| <= width (slab), on the scale of the set.

    The axis of a class is the unit vector from its centre to that of all other classes, which for two classes is the line between both centres.

    Args:
        unit: (D,) what the columns are divided by.
        centres: (K, D), on the scale of the set, as everything below.
        axes: (K, D).
        radii: (K,).
        widths: (K,).
    """

    unit: Tensor
    centres: Tensor
    axes: Tensor
    radii: Tensor
    widths: Tensor

    @classmethod
    def of(cls, rows: Dataset, shape: Shape, name: str) -> FeasibleSet:
        """Measure the set on rows. Each row is measured against the centre of the other rows of its class.

        Raises:
            ConfigError: a class has fewer than two of these rows.
        """
        table_ND = rows.form.table(rows.inputs).double()
        counts = rows.labels.bincount(minlength=rows.num_classes)
        if int(counts.min()) < 2:
            small = int(counts.argmin())
            raise ConfigError(f"the slab and the sphere of class {small} are measured on {int(counts[small])} {name} rows; two are needed")
        deviation = table_ND.std(0, correction=0)
        unit = torch.where((deviation > 1e-12 * table_ND.abs().amax(0)) & torch.tensor(shape.standardise), deviation, 1.0)
        points = table_ND / unit
        own = torch.nn.functional.one_hot(rows.labels, rows.num_classes).double()
        centres = own.T @ points / counts[:, None]
        others = (points.sum(0) - own.T @ points) / (len(points) - counts)[:, None]
        axes = torch.nn.functional.normalize(others - centres)
        offsets = (points - centres[rows.labels]) * (counts / (counts - 1.0))[rows.labels, None]  # from the centre of the other rows
        far, along = offsets.square().sum(1).sqrt(), (offsets * axes[rows.labels]).sum(1).abs()
        by_class = [rows.labels == label for label in range(rows.num_classes)]
        radii, widths = (
            torch.stack([values[mine].quantile(share, interpolation="higher") for mine in by_class])
            for values, share in ((far, shape.sphere), (along, shape.slab))
        )
        return cls(unit=unit, centres=centres, axes=axes, radii=radii, widths=widths)

    def points(self, rows: Dataset) -> Tensor:
        """Return (N, D) rows on the scale of the set."""
        return rows.form.table(rows.inputs).double() / self.unit

    def excess(self, rows: Dataset) -> Tensor:
        """Return (N,) float64, the larger of distance over radius and distance along the axis over width; above 1 a row is outside.

        Each row is computed by itself, so its bits depend on no other row.
        """
        offsets = self.points(rows) - self.centres[rows.labels]
        far, along = offsets.square().sum(1).sqrt(), (offsets * self.axes[rows.labels]).sum(1).abs()
        return torch.maximum(far / self.radii[rows.labels].clamp_min(1e-12), along / self.widths[rows.labels].clamp_min(1e-12))

    def lowest(self, slope_D: Tensor, label: int) -> Tensor:
        """Return (D,), the feasible point x of a class with the smallest slope.x.

        In the plane of the axis and the rest of the slope this is a linear function on a disc between two parallel lines. Without the lines the
        answer lies opposite to the slope; with them, its part along the axis is clipped and the rest goes to the edge of the disc.
        """
        axis, (along, across) = self.axes[label], self._split(slope_D, label)
        part, edge = self._place(along, across.square().sum(), label)
        return self.centres[label] + part * axis - edge * torch.nn.functional.normalize(across, dim=0)

    def least(self, slope_D: Tensor, label: int, soft: float = 0.0) -> Tensor:
        """Return slope.x at that point; differentiable in the slope, also where the rest of the slope is 0 if `soft` is above 0."""
        along, across = self._split(slope_D, label)
        rest = across.square().sum() + soft**2 + TINY
        part, edge = self._place(along, rest, label)
        return self.centres[label] @ slope_D + part * along - edge * rest.sqrt()

    def _split(self, slope_D: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """Return the slope along the axis, and (D,) the rest of it."""
        along = slope_D @ self.axes[label]
        return along, slope_D - along * self.axes[label]

    def _place(self, along: Tensor, rest: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """Return how far the lowest point is from the centre along the axis and across it; `rest` is the squared length of the slope across."""
        radius, most = self.radii[label], torch.minimum(self.widths[label], self.radii[label])
        part = (-radius * along / (along.square() + rest + TINY).sqrt()).clamp(-most, most)
        return part, (radius.square() - part.square()).clamp_min(0).sqrt()
