"""CUBE: the poisoned rows of a class form a cluster of their own, so only the largest cluster of each class is kept.

Shape letters: R rows of one class, D features, d reduced features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defenses.sanitize.activation_clustering import reduced
from poisonbench.core.abilities import features_of
from poisonbench.core.classwise import by_class
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key

NOISE = -1  # HDBSCAN's label of rows in no cluster
LEAST = 5  # rows of the smallest cluster


@dataclass(frozen=True, kw_only=True)
class Cube:
    """Cluster the features of each class by density and keep the largest cluster.

    Source: Cui, Yuan, He, Chen, Liu, Sun, "A Unified Evaluation of Textual Backdoor Learning: Frameworks and Benchmarks", NeurIPS 2022 datasets and
    benchmarks: clustering-based poisoned sample filtering (CUBE); Campello, Moulavi, Sander, "Density-Based Clustering Based on Hierarchical Density
    Estimates", PAKDD 2013 (HDBSCAN).

    Differences: features are reduced by PCA, where the paper takes UMAP, which is no dependency of this project. UMAP pulls groups of rows apart
    before clusters are searched; after PCA more rows are in no cluster. Features are those of the undefended victim; the paper trains an encoder.
    Each class is clustered by itself, where the paper's code clusters all rows and then looks at the labels. A class without a cluster of more than
    `majority` of its rows is kept whole: in SST-2 more than half of a clean class is in no cluster, and its largest cluster says nothing about poison.
    HDBSCAN gives other clusters for another order of equal rows (`findings/sklearn_hdbscan_order.sh`), so rows are ordered by their ids first.

    Args:
        dims: dimensions after the reduction, 1 or more (paper: 10).
        smallest: rows of a cluster, as a share of its class, in (0, 0.5]; 5 rows or more.
        neighbours: rows that a dense place has nearby, 1 or more (paper's code: 100); at most the rows of the smallest cluster.
        majority: share of its class that the largest cluster has to exceed, in [0, 1); the rows outside it are then dropped. 0 is the paper's rule.
    """

    VERSION: ClassVar[int] = 1
    BY_CLASS: ClassVar[bool] = True
    FINDS: ClassVar[Finds] = Finds(kind="backdoor", reads="full", because="its features form a small cluster apart from the rest of {label}", scale="class")
    dims: int
    smallest: float
    neighbours: int
    majority: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.dims, self.neighbours) < 1 or not 0 < self.smallest <= 0.5 or not 0 <= self.majority < 1:
            raise ConfigError("defense.sanitize: dims and neighbours are 1 or more, smallest lies in (0, 0.5], majority in [0, 1)")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Cluster every class that has rows for two clusters; suspicion is the distance to the centroid of the largest, over the median distance there."""
        features = features_of(means.fit(data), data)
        keep, suspicion = torch.ones(len(data), dtype=torch.bool), torch.zeros(len(data))
        for _, rows in by_class(data):
            rows = rows[data.ids[rows].argsort()]  # so that the verdict does not depend on the order of the rows
            least = max(LEAST, round(self.smallest * len(rows)))
            if len(rows) < 2 * least:
                continue
            points = reduced(features[rows], "pca", self.dims, rng)
            cluster = clusters(points, least, min(self.neighbours, least))
            if (cluster != NOISE).any():
                main = cluster == int(cluster[cluster != NOISE].mode().values)
                keep[rows] = main | (int(main.sum()) <= self.majority * len(rows))
                suspicion[rows] = distance(points, main)
        return Verdict(keep=keep, suspicion=suspicion)


def clusters(points_Rd: NDArray[np.float64], least: int, neighbours: int) -> Tensor:
    """Return (R,) int64, the cluster of each row by HDBSCAN, from 0; -1 for rows in none."""
    from sklearn.cluster import HDBSCAN

    found = HDBSCAN(min_cluster_size=least, min_samples=neighbours, copy=True).fit_predict(points_Rd)
    return torch.from_numpy(found).to(torch.int64)


def distance(points_Rd: NDArray[np.float64], main_R: Tensor) -> Tensor:
    """Return (R,) float32 distances to the mean of the rows in `main`, divided by the median distance of these rows."""
    points = torch.from_numpy(points_Rd)
    far: Tensor = torch.linalg.vector_norm(points - points[main_R].mean(0), dim=1)
    return (far / far[main_R].median().clamp_min(1e-12)).float()
