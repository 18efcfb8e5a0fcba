"""What a training minimises.

Shape letters: B rows of a batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.learner import Batch, Network


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """The cross-entropy of the labels."""

    VERSION: ClassVar[int] = 1

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) cross-entropies."""
        return row_losses(network(batch.inputs), batch.labels, label_smoothing)


def row_losses(scores: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the (B,) cross-entropies of (B, K) scores, in float32."""
    return F.cross_entropy(scores.float(), labels, reduction="none", label_smoothing=label_smoothing)


CROSS_ENTROPY = CrossEntropy()
