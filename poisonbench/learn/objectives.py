"""What a training minimises.

Shape letters: B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.learner import Batch


class Objective(Protocol):
    """A loss, as a frozen dataclass."""

    def __call__(self, network: Callable[[Tensor], Tensor], batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) losses of the rows, in float32; their mean is minimised.

        Args:
            network: from inputs to outputs, in the precision of the recipe.
            batch: the rows, as they are trained on.
            label_smoothing: in [0, 1), for objectives with labels.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """The cross-entropy of the labels."""

    VERSION: ClassVar[int] = 1

    def __call__(self, network: Callable[[Tensor], Tensor], batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) cross-entropies."""
        return row_losses(network(batch.inputs), batch.labels, label_smoothing)


def row_losses(scores: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the (B,) cross-entropies of (B, K) scores, in float32."""
    return F.cross_entropy(scores.float(), labels, reduction="none", label_smoothing=label_smoothing)


CROSS_ENTROPY = CrossEntropy()
