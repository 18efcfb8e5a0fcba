"""Trusted outliers: rows that are farther from the trusted rows of their class than these are from each other.

Shape letters: N rows, T trusted rows of one class, R rows of one class, D values of an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.reals import NUMBERS

CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class TrustedOutlier:
    """Drop the rows whose k-th nearest trusted row of the same class is farther than a percentile of the trusted rows' own distances.

    Source: Paudice, Munoz-Gonzalez, Gyorgy, Lupu, "Detection of Adversarial Training Examples in Poisoning Attacks through Anomaly Detection", 2018:
    one detector per class, fitted to a small trusted set; the threshold is taken from the empirical distribution of the trusted rows' scores.

    Each trusted row is scored against the other trusted rows. Distances are Euclidean between the inputs, not between features of a trained model. So
    the verdict on a row depends only on that row and on trusted rows, whatever else an attacker inserts, deletes or changes. A class with fewer than
    two trusted rows has no threshold; its rows are kept.

    Args:
        neighbours: k, 1 or more; a class with fewer trusted rows uses as many as it has.
        percentile: share of the trusted rows of a class that the threshold would keep, in (0, 1].
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    neighbours: int
    percentile: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.neighbours < 1 or not 0 < self.percentile <= 1:
            raise ConfigError(f"defense.sanitize: neighbours={self.neighbours} is 1 or more, percentile={self.percentile} lies in (0, 1]")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row against the trusted rows of its class; suspicion is the distance over the threshold."""
        suspicion = torch.zeros(len(data))
        for label in data.labels.unique().tolist():
            clean = _points(means.trusted.inputs[means.trusted.labels == label])
            if len(clean) < 2:
                continue
            own = kth_distance(clean, clean, min(self.neighbours, len(clean) - 1) + 1)  # the nearest is the row itself
            threshold = torch.quantile(own, self.percentile, interpolation="higher").clamp_min(1e-9)
            rows = data.labels == label
            suspicion[rows] = (kth_distance(_points(data.inputs[rows]), clean, min(self.neighbours, len(clean))) / threshold).float()
        return Verdict(keep=suspicion <= 1, suspicion=suspicion)


def kth_distance(points_RD: Tensor, clean_TD: Tensor, k: int) -> Tensor:
    """Return (R,) distances to the k-th nearest clean row; each is computed separately, so its bits depend on no other row."""
    far = [torch.cdist(some, clean_TD, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(k).values for some in points_RD.split(CHUNK)]
    return torch.cat(far)


def _points(inputs: Tensor) -> Tensor:
    return inputs.flatten(1).double()
