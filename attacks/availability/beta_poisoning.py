"""Beta poisoning: inserted rows that are mixtures of rows of one class, and have the label of another.

Shape letters: R rows of poison, P prototypes, N rows of a class, D columns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.convex import Box, Scale
from attacks.injection import with_rows
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.reals import NUMBERS


@dataclass(frozen=True, kw_only=True)
class BetaPoisoning:
    """Insert rows where a class is dense, with the label of another class; no model is trained.

    Source: Cina, Vascon, Demontis, Biggio, Roli, Pelillo, "The Hammer and the Nut: Is Bilevel Optimization Really Needed to Poison Linear Classifiers?",
    IJCNN 2021.

    Each row is a weighed sum of prototypes, random rows of the class that it imitates, with weights beta in [0, 1]. The weights maximise a kernel
    density estimate of that class, the mean of exp(-|x - x_i| / h), where h is the mean distance between rows of the class.

    Differences: the density is that of the training rows, in the paper that of a validation set. Distances are between standardised columns, in the
    paper between pixels. All rows are optimised at once, by Adam instead of gradient descent. The sum of the weights is not normalised,
    as in the published code.

    Args:
        source: class that the rows imitate.
        target: their label, another class.
        prototypes: P, 2 or more.
        steps: of the weights, 1 or more.
        lr: of Adam, above 0.
        rows: most rows of a class that the density is measured on, 2 or more; they are drawn at random.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    SEVERAL_CLASSES: ClassVar[bool] = True
    source: int
    target: int
    prototypes: int
    steps: int
    lr: float
    rows: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.prototypes < 2 or self.steps < 1 or not 0 < self.lr <= 1e6 or self.rows < 2:
            raise ConfigError("attack.data: prototypes and rows are 2 or more, steps is 1 or more, lr is above 0, at most 1e6")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many as the budget allows.

        Raises:
            ConfigError: `source` or `target` is not a class, there are too few rows, or a limit in a norm other than Linf.
        """
        kinds = known.rows.num_classes
        if not (0 <= self.source < kinds and 0 <= self.target < kinds and self.source != self.target):
            raise ConfigError(f"attack.data: source={self.source}, target={self.target}; give two of the classes 0 to {kinds - 1}")
        rows, chosen = known.rows, known.choose(torch.ones(len(known.rows), dtype=torch.bool), rng.child("rows"))
        if len(chosen) == 0:
            return Poisoned(data=rows, mask=known.mask(chosen), goal=Degrade())
        scale, mine = Scale.of(rows), (rows.labels == self.source).nonzero()[:, 0]
        if len(mine) < 2:
            raise ConfigError(f"attack.data.source={self.source}: the class has {len(mine)} training rows; choose a class with two or more")
        drawn = mine[rng.child("density").pick(rows.ids[mine], min(self.rows, len(mine)))]
        dense, like = scale.points(rows.inputs[drawn]), rows.inputs[chosen]
        moved = self.mixed(dense, Box.around(scale.points(like), scale, known), rng.child("mixtures"))
        return dataclasses.replace(with_rows(known, chosen, scale.inputs(moved, like), self.target, Degrade()), origins=chosen)

    def mixed(self, dense_ND: Tensor, box: Box, rng: Key) -> Tensor:
        """Return (R, D) mixtures of rows of one class, in the box, where the class is dense."""
        draws, count = rng.torch(), len(box.low)
        prototypes_RPD = dense_ND[torch.randint(len(dense_ND), (count, self.prototypes), generator=draws)]
        weights = torch.rand(count, self.prototypes, generator=draws, dtype=torch.float64).requires_grad_()
        width = torch.cdist(dense_ND, dense_ND, compute_mode="donot_use_mm_for_euclid_dist").mean()
        if width == 0:
            raise ConfigError(f"attack.data.source={self.source}: all rows of the class are equal, so there is no density to climb; choose another class")
        optimiser = torch.optim.Adam([weights], lr=self.lr)
        for _ in range(self.steps):
            points = box.clamped(torch.einsum("rp,rpd->rd", weights, prototypes_RPD))
            (weights.grad,) = torch.autograd.grad(-density(points, dense_ND, width).sum(), weights)
            optimiser.step()
            with torch.no_grad():
                weights.clamp_(0, 1)
        return box.clamped(torch.einsum("rp,rpd->rd", weights.detach(), prototypes_RPD))


def density(points_RD: Tensor, dense_ND: Tensor, width: Tensor) -> Tensor:
    """Return (R,) kernel density estimates, up to a constant."""
    return (-torch.cdist(points_RD, dense_ND) / width).exp().mean(1)
