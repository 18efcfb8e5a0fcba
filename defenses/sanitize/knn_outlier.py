"""k-NN outliers: poisoned rows are far from most rows of their class.

Shape letters: N rows, R rows of one class, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.abilities import features_of
from poisonbench.core.classwise import by_class
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict, stated
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE

CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class KnnOutlier:
    """Drop the rows whose k-th nearest neighbour in their class is farthest away, relative to the median of the class.

    Source: Ramaswamy, Rastogi, Shim, "Efficient Algorithms for Mining Outliers from Large Data Sets", SIGMOD 2000, on the features of the undefended
    victim.

    Rows with the same trigger form a tight cluster, so k must be larger than the number of poisoned rows; otherwise their k nearest neighbours are
    poison too. By default k is the number of rows that the filter removes. Distances are divided by the median of the class so that classes can be
    compared.

    Args:
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is oracle
            knowledge; with attack=none it is an assumption.
        margin: rows removed, and default of k, as a multiple of expected_rate * N; 0 or more.
        neighbours: k, 1 or more; null: the number of rows removed. At most three quarters of a class in both cases.
    """

    VERSION: ClassVar[int] = 1
    FINDS: ClassVar[Finds] = Finds(kind="outlier", reads="full", because="its features are far from those of other rows labelled {label}", scale="data")
    BY_CLASS: ClassVar[bool] = True
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    margin: float
    neighbours: int | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if (self.expected_rate is not None and not 0 <= self.expected_rate < 1) or self.margin < 0 or (self.neighbours is not None and self.neighbours < 1):
            raise ConfigError("defense.sanitize: expected_rate lies in [0, 1), margin is 0 or more, neighbours 1 or more")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row within its class and drop the most suspicious rows of all classes together."""
        features = features_of(means.fit(data), data)
        count = min(round(self.margin * stated(self.expected_rate, "defense.sanitize.expected_rate") * len(data)), len(data) - 1)
        suspicion = torch.zeros(len(data))
        for _, rows in by_class(data):
            suspicion[rows] = relative_distance(features[rows], self.neighbours or max(1, count))
        keep = torch.ones(len(data), dtype=torch.bool)
        keep[suspicion.argsort(descending=True, stable=True)[:count]] = False
        return Verdict(keep=keep, suspicion=suspicion)


def relative_distance(features_RD: Tensor, k: int) -> Tensor:
    """Return (R,) float32, the distance of each row to its k-th neighbour divided by the median of these distances; 0 for a single row.

    Computed in chunks, so memory grows with R and not with its square.
    """
    if len(features_RD) < 2:
        return torch.zeros(len(features_RD))
    k = max(1, min(k, 3 * len(features_RD) // 4))
    points = features_RD.double()
    kth = torch.cat([_kth_distance(points, rows, k) for rows in torch.arange(len(points)).split(CHUNK)])
    return (kth / kth.median().clamp_min(1e-12)).float()


def _kth_distance(points_RD: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the distance of these rows to their k-th neighbour among all others."""
    distances = torch.cdist(points_RD[rows], points_RD, compute_mode="use_mm_for_euclid_dist")
    distances[torch.arange(len(rows)), rows] = torch.inf  # a row is not its own neighbour
    return distances.kthvalue(k).values
