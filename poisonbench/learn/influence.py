"""The influence of each training label on the scores of least squares, in float64.

Shape letters: J solved rows, which are N rows and their mirror images, if any; M test rows, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 2000  # solved rows that are converted to float64 at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class Least:
    """Base class of least squares on given rows, solved again for every set of labels.

    Args:
        read: returns the (J, D) float32 features of the solved rows; mirror images come after all other rows.
        rows: N.
        ridge: added to the diagonal.
    """

    read: Callable[[], Tensor]
    rows: int
    ridge: float

    @cached_property
    def own(self) -> Tensor:
        """The (J, D) float32 features of the solved rows."""
        return self.read()

    def factored(self, products: Tensor) -> Tensor:
        """Return the Cholesky factor of a matrix of products and the ridge; overwrites the matrix."""
        products.diagonal().add_(self.ridge)
        factor: Tensor = torch.linalg.cholesky(products)
        return factor

    def folded(self, influence_MJ: Tensor) -> Tensor:
        """Return (M, N) from (M, J): a row and its mirror image have one label."""
        return influence_MJ.view(len(influence_MJ), -1, self.rows).sum(1).cpu()

    def repeated(self, targets_NK: Tensor) -> Tensor:
        """Return (J, K) targets in float64, those of mirror images included."""
        return targets_NK.to(self.own.device, torch.float64).repeat(len(self.own) // self.rows, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Primal(Least):
    """Scores x (X'X + ridge I)^-1 X'Y, for more rows than features. Keeps a D x D matrix, and (J, D) features in float32."""

    @cached_property
    def factor(self) -> Tensor:
        """The (D, D) Cholesky factor."""
        gram = self.own.new_zeros((self.own.shape[1],) * 2, dtype=torch.float64)
        for some in self.own.split(BLOCK):
            features = some.double()
            gram.addmm_(features.T, features)
        return self.factored(gram)

    def of(self, asked_MD: Tensor) -> Tensor:
        """Return (M, N) influences."""
        solved_DM = torch.cholesky_solve(asked_MD.double().T, self.factor)
        return self.folded(torch.cat([some.double() @ solved_DM for some in self.own.split(BLOCK)]).T)

    def solution(self, targets_NK: Tensor) -> Tensor:
        """Return the (D, K) weights of the features."""
        cross = self.factor.new_zeros(len(self.factor), targets_NK.shape[1])
        for some, wanted in zip(self.own.split(BLOCK), self.repeated(targets_NK).split(BLOCK), strict=True):
            cross.addmm_(some.double().T, wanted)
        return torch.cholesky_solve(cross, self.factor).cpu()

    def scores(self, asked_MD: Tensor, solution: Tensor) -> Tensor:
        """Return (M, K) scores."""
        return (asked_MD.double() @ solution.to(asked_MD.device)).cpu()


@dataclass(frozen=True, eq=False, kw_only=True)
class Dual(Least):
    """Scores k(x, X) (k(X, X) + ridge I)^-1 Y, for fewer rows than features, or for a kernel. Keeps a J x J matrix.

    Args:
        kernel: returns (J, M) values of rows and test rows.
    """

    kernel: Callable[[Tensor, Tensor], Tensor]

    @cached_property
    def factor(self) -> Tensor:
        """The (J, J) Cholesky factor."""
        features = self.own.double()
        return self.factored(self.kernel(features, features))

    def of(self, asked_MD: Tensor) -> Tensor:
        """Return (M, N) influences."""
        return self.folded(torch.cholesky_solve(self.kernel(self.own.double(), asked_MD.double()), self.factor).T)

    def solution(self, targets_NK: Tensor) -> Tensor:
        """Return the (J, K) weights of the rows."""
        return torch.cholesky_solve(self.repeated(targets_NK), self.factor).cpu()

    def scores(self, asked_MD: Tensor, solution: Tensor) -> Tensor:
        """Return (M, K) scores."""
        kernel_JM = self.kernel(self.own.double(), asked_MD.double())
        return (kernel_JM.T @ solution.to(kernel_JM.device)).cpu()
