"""Activation clustering: the rows of a poisoned class fall into two clusters.

Shape letters: R rows of one class, D features, d reduced features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defenses.sanitize.principal import centred, principal
from poisonbench.core.abilities import features_of
from poisonbench.core.classwise import by_class
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threads import one_thread


@dataclass(frozen=True, eq=False, kw_only=True)
class Clusters:
    """The two clusters of one class.

    Args:
        smaller: (R,) bool, the rows of the smaller cluster.
        suspicion: (R,) float32, position on the line from the centroid of the larger cluster (0) to that of the smaller one (1).
        points: (R, d) float64, the points that were clustered.
    """

    smaller: Tensor
    suspicion: Tensor
    points: NDArray[np.float64]

    def silhouette(self) -> float:
        """Return the mean silhouette coefficient, in [-1, 1]; -1 if there is only one cluster. It computes all R x R distances."""
        from sklearn import config_context
        from sklearn.metrics import silhouette_score

        if not self.smaller.any():
            return -1.0
        with config_context(working_memory=8):  # MiB, so that blocks fit in the cache: 200 ms for 5,000 rows, 240 to 470 in one block
            return float(silhouette_score(self.points, self.smaller.numpy()))


@dataclass(frozen=True, kw_only=True)
class ActivationClustering:
    """Split the features of each class into two clusters and drop the smaller one if it looks like poison.

    Source: Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, "Detecting Backdoor Attacks on Deep Neural Networks by Activation
    Clustering", SafeAI at AAAI 2019.

    Features are reduced to `dims` dimensions by ICA (paper) or PCA, and each whole class is clustered at once. The most used benchmark instead
    clusters each batch of 256 rows alone, on raw features, and drops one cluster of every class, which is close to removing rows at random
    (`batch_clustering`).

    Args:
        reduction: "pca" or "ica".
        dims: number of dimensions after the reduction, 1 or more (paper: 10).
        rule: when the smaller cluster is dropped. "relative_size": it holds less than `size` of its class. "silhouette": in addition, the mean
            silhouette is above `silhouette`. "exclusionary": a model trained without the cluster gives its rows one other label more than
            `reclassified` times as often as their own.
        size: largest share of a class that counts as poison, in [0, 0.5] (paper and common ports: 0.35).
        silhouette: smallest mean silhouette of two real clusters, in [-1, 1] (common ports: 0.1).
        reclassified: rows given the most frequent other label / rows given their own label, above 0 (paper: 1).
    """

    VERSION: ClassVar[int] = 1
    FINDS: ClassVar[Finds] = Finds(kind="backdoor", reads="full", because="its features form a small cluster apart from the rest of {label}", scale="class")
    BY_CLASS: ClassVar[bool] = True
    reduction: Literal["pca", "ica"]
    dims: int
    rule: Literal["relative_size", "silhouette", "exclusionary"]
    size: float
    silhouette: float
    reclassified: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.dims < 1 or not 0 <= self.size <= 0.5 or not -1 <= self.silhouette <= 1 or not self.reclassified > 0:
            raise ConfigError("defense.sanitize: dims is 1 or more, size in [0, 0.5], silhouette in [-1, 1], reclassified above 0")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Cluster every class of at least four rows."""
        features = features_of(means.fit(data), data)
        suspicion, found = torch.zeros(len(data)), dict[int, tuple[Tensor, Clusters]]()
        for label, rows in by_class(data):
            rows = rows[data.ids[rows].argsort()]  # so that the verdict does not depend on the order of the rows
            if len(rows) >= 4:
                clusters = split(reduced(features[rows], self.reduction, self.dims, rng), rng)
                suspicion[rows] = clusters.suspicion
                found[label] = rows, clusters
        small = torch.zeros(len(data), dtype=torch.bool)
        for rows, clusters in found.values():
            small[rows[clusters.smaller]] = True
        poisoned = {label for label, (_, clusters) in found.items() if self.poisoned(clusters)}
        if self.rule == "exclusionary":
            poisoned = self._relabelled(data, small, means)
        suspected = torch.isin(data.labels, torch.tensor(sorted(poisoned), dtype=torch.int64))
        return Verdict(keep=~(small & suspected), suspicion=suspicion)

    def poisoned(self, clusters: Clusters) -> bool:
        """Return whether the smaller cluster looks like poison by its size, and by its silhouette if the rule uses it."""
        small = int(clusters.smaller.sum()) < self.size * len(clusters.smaller)
        return small and (self.rule == "relative_size" or clusters.silhouette() > self.silhouette)

    def _relabelled(self, data: Dataset, small: Tensor, means: Means) -> set[int]:
        """Return the classes whose smaller cluster gets another label from a model that was trained without it."""
        if small.all():
            return set()
        answers = means.fit(data.take(~small), draw=1).scores(data.inputs).argmax(1)
        relabelled = set()
        for label in data.labels[small].unique().tolist():
            given = torch.bincount(answers[small & (data.labels == label)], minlength=data.num_classes)
            own = int(given[label])
            given[label] = 0
            if int(given.max()) > self.reclassified * own:
                relabelled.add(label)
        return relabelled


def reduced(features_RD: Tensor, how: Literal["pca", "ica"], dims: int, rng: Key) -> NDArray[np.float64]:
    """Return (R, d) features; d is the smallest of `dims`, R - 1 and D."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.extmath import svd_flip

    count = min(dims, len(features_RD) - 1, features_RD.shape[1])
    if how == "pca":
        rows = centred(features_RD)
        _, directions = svd_flip(None, principal(rows, count).directions.numpy().T, u_based_decision=False)
        found: NDArray[np.float64] = rows.numpy() @ directions.T
        return found
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Gaussian directions have no independent components to converge to
        ica = FastICA(count, max_iter=200, tol=1e-2, whiten="unit-variance", random_state=rng.seed % 2**32)
        independent: NDArray[np.float64] = ica.fit_transform(features_RD.double().numpy())
    return independent


def split(points_Rd: NDArray[np.float64], rng: Key) -> Clusters:
    """Return two clusters by 2-means, the best of ten starts: a class without two clear clusters has several local optima.

    In 80 such classes of 200 rows, one start changed the verdict of 3 classes compared with ten starts (0.8 ms against 4); in 160 classes with
    planted poison, of none.
    """
    from sklearn.cluster import KMeans

    if (points_Rd == points_Rd[0]).all():
        return Clusters(smaller=torch.zeros(len(points_Rd), dtype=torch.bool), suspicion=torch.zeros(len(points_Rd)), points=points_Rd)
    means = KMeans(2, n_init=10, random_state=rng.seed % 2**32).fit(points_Rd)
    small = int(np.bincount(means.labels_, minlength=2).argmin())
    towards = means.cluster_centers_[small] - means.cluster_centers_[1 - small]
    along = (points_Rd - means.cluster_centers_[1 - small]) @ towards / (towards @ towards)
    return Clusters(smaller=torch.from_numpy(means.labels_ == small), suspicion=torch.from_numpy(along).float(), points=points_Rd)
