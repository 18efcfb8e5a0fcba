"""Activation clustering batch by batch, as in the most used backdoor benchmark, with its defects.

Shape letters: N rows, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from poisonbench.core.abilities import features_of
from poisonbench.core.classwise import by_class
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class BatchClustering:
    """Cluster each class batch by batch, and drop in every class the cluster that is smaller over all batches.

    Source: SCLBD/BackdoorBench, defense/ac.py at commit f02e353 (2025-07-04); our own code with the same behaviour.

    It reproduces three defects: 2-means is fitted to about 25 rows at a time, on the first ten raw features (an error of operator precedence skips
    the PCA). The arbitrary numbers 0 and 1 of the clusters are joined across batches, so "the smaller cluster" mixes both. The loader shuffles
    between clustering and naming, so flags go to other rows. Use it for comparison with `activation_clustering` and `random_drop`, not as a defense.

    Args:
        batch_size: rows per batch, 1 or more (there: 256).
        dims: leading raw features that are used, 1 or more (there: 10).
        shuffled: give the flags of one pass to the rows in another order.
    """

    VERSION: ClassVar[int] = 1
    BY_CLASS: ClassVar[bool] = True
    batch_size: int
    dims: int
    shuffled: bool

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.batch_size, self.dims) < 1:
            raise ConfigError("defense.sanitize: batch_size and dims are 1 or more")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return the verdict that the benchmark's code would give; suspicion is 1 for a dropped row."""
        from sklearn.cluster import KMeans

        features = features_of(means.fit(data), data)[:, : self.dims].double().numpy()
        first = rng.child("first").per_row(data.ids)[:, 0].argsort(stable=True)
        second = rng.child("second").per_row(data.ids)[:, 0].argsort(stable=True) if self.shuffled else first
        dropped = torch.zeros(len(data), dtype=torch.bool)
        for label, _ in by_class(data):
            own = [part[data.labels[part] == label] for part in first.split(self.batch_size)]
            fits = [KMeans(2, n_init=10, random_state=rng.seed % 2**32) for _ in own]
            named = [fit.fit_predict(features[part.numpy()]) if len(part) > 1 else np.zeros(len(part)) for fit, part in zip(fits, own, strict=True)]
            flags = torch.from_numpy(np.concatenate(named)).long()
            smaller = int(torch.bincount(flags, minlength=2).argmin())
            dropped[second[data.labels[second] == label]] = flags == smaller
        return Verdict(keep=~dropped, suspicion=dropped.float())
