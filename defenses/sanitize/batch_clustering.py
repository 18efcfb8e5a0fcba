"""The batch-wise variant of activation clustering that the most used backdoor benchmark runs, defects and all.

Shape letters: N rows, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from poisonbench.core.classwise import by_class
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class BatchClustering:
    """Cluster the rows of each class batch by batch and drop the cluster that is smaller over all batches, in every class.

    Source: read in SCLBD/BackdoorBench, defense/ac.py at commit f02e353 (2025-07-04), and written anew from what it does.
    Its 2-means is fitted to about 25 rows at a time, on the first ten raw features (a precedence slip keeps its PCA from ever
    running); the arbitrary names 0 and 1 of the clusters are then joined across batches, so that "the smaller cluster" mixes
    both; and the loader shuffles between clustering and naming, so that flags land on other rows. It is here to be compared
    with `activation_clustering` and `random_drop`, not to be used.

    Args:
        batch_size: rows of a batch (there: 256).
        dims: leading raw features kept (there: 10).
        shuffled: the flags of one pass are given to the rows of another order.
    """

    VERSION: ClassVar[int] = 1
    BY_CLASS: ClassVar[bool] = True
    batch_size: int
    dims: int
    shuffled: bool

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if min(self.batch_size, self.dims) < 1:
            raise ConfigError("defense.sanitize: batch_size and dims are 1 or more")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return the verdict of the benchmark's code path; suspicion is 1 for a row it drops."""
        from sklearn.cluster import KMeans

        features = means.fit(data).features(data.inputs)[:, : self.dims].double().numpy()
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
