"""Instance-dependent label noise: how likely a wrong label is, and which, depends on the row.

Shape letters: N rows, D features, K classes, R rows chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.reals import NUMBERS
from poisonbench.nets.net import Normalized


@dataclass(frozen=True, kw_only=True)
class InstanceDependent:
    """Give wrong labels that depend on the inputs to as many training rows as the budget allows.

    Source: Xia, Liu, Han, Wang, Gong, Liu, Niu, Tao, Sugiyama, "Part-dependent Label Noise: Towards Instance-dependent Label Noise", NeurIPS 2020,
    the algorithm that makes the noise of the experiments. Each row has a flip rate q from a normal distribution around the noise rate, truncated to
    [0, 1]. Each class has a D x K matrix of standard normal numbers. A row that is flipped gets another label with the probabilities of a softmax
    over the product of its inputs and the matrix of its class.

    Differences: a row is flipped in the paper if a uniform draw u is below q, so the number of flips is random. Here the rows with the largest q - u
    are flipped, as many as the budget allows. They are those of the paper but for the rows nearest to the threshold. Inputs are standardised for each
    channel of a picture, or each column of a table.

    Args:
        deviation: standard deviation of the flip rates before truncation, above 0 (paper: 0.1).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    SEVERAL_CLASSES: ClassVar[bool] = True
    deviation: float

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if not 0 < self.deviation < math.inf:
            raise ConfigError(f"attack.data.deviation={self.deviation}: a standard deviation is a finite number above 0, such as 0.1")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with wrong labels on as many of them as the budget allows.

        Raises:
            ConfigError: fewer rows than that.
        """
        rows = known.rows
        count = known.budget.rows(len(rows))
        pool = known.pool(torch.ones(len(rows), dtype=torch.bool), count)
        chances, coins = rng.child("rows").per_row(rows.ids[pool], draws=2).unbind(1)
        rates = truncated_normal(chances, known.budget.share(len(rows)), self.deviation)
        chosen = pool[(rates - coins).argsort(descending=True, stable=True)[:count]].sort().values
        labels = drawn(wrong_labels(rows.take(chosen), rows.inputs, rng), rng.child("labels").per_row(rows.ids[chosen])[:, 0]) if count else rows.labels[:0]
        return Poisoned(data=rows.edit(chosen, labels=labels), mask=known.mask(chosen), goal=Degrade())


def truncated_normal(chances_N: Tensor, mean: float, deviation: float) -> Tensor:
    """Return (N,) float64, the quantiles of a normal distribution truncated to [0, 1] at these chances in [0, 1)."""
    ends = torch.special.ndtr(torch.tensor([-mean / deviation, (1 - mean) / deviation], dtype=torch.float64))
    quantiles_N: Tensor = torch.special.ndtri(ends[0] + chances_N * (ends[1] - ends[0]))
    return (mean + deviation * quantiles_N).clamp(0, 1)


def wrong_labels(rows: Dataset, inputs: Tensor, rng: Key) -> Tensor:
    """Return (R, K) float64, the probability of each label of R rows that are flipped; 0 for their own.

    Args:
        rows: the R rows.
        inputs: (N, ...), all inputs, which are the scale of those of the rows.
        rng: for the projections.
    """
    features_RD = Normalized.over(inputs)(rows.inputs.float()).flatten(1).double()
    chances_RK = torch.zeros(len(rows), rows.num_classes, dtype=torch.float64)
    for label in rows.labels.unique().tolist():
        projection_DK = torch.randn(features_RD.shape[1], rows.num_classes, generator=rng.child(f"class/{label}").torch(), dtype=torch.float64)
        own = rows.labels == label
        scores = features_RD[own] @ projection_DK
        scores[:, label] = -torch.inf
        chances_RK[own] = scores.softmax(1)
    return chances_RK


def drawn(chances_RK: Tensor, coins_R: Tensor) -> Tensor:
    """Return (R,) int64, the label where the running sum of the probabilities first exceeds the uniform coin of the row."""
    sums_RK = chances_RK.cumsum(1)
    return (sums_RK / sums_RK[:, -1:] > coins_R[:, None]).double().argmax(1)
