"""Filters on many features: spectral signatures against one singular value decomposition per class, and two other filters."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._options import Options
from benchmarks._timing import in_turns
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.report.benchmarks import Comparison

CLASSES = 10


def measure(options: Options, *, rows: int = 50_000, dims: int = 512, repeats: int = 3) -> Iterator[Comparison]:
    """Yield spectral scores of all classes against `numpy.linalg.svd` (reduced, and once full), then k-NN distances and PCA against scikit-learn."""
    adopt_own_packages()
    signature: Callable[..., tuple[Tensor, float]] = importlib.import_module("defenses.sanitize.spectral").signature
    features = torch.randn(rows, dims, generator=Key.root(100).torch())
    per_class = [features[label::CLASSES] + label for label in range(CLASSES)]

    def decomposed(full: bool) -> list[object]:
        return [top_projection(part, full=full) for part in per_class]

    for full, times in ((False, repeats), (True, 1)):
        costs = in_turns(lambda: [signature(part, centre=True) for part in per_class], lambda full=full: decomposed(full), repeats=times, warm_up=not full)  # type: ignore[misc]
        yield Comparison(
            work=f"spectral scores of {rows} x {dims} features, {CLASSES} classes",
            ours="eigenvectors of D x D, float64",
            alternative=f"numpy.linalg.svd a class, {'full_matrices=True as is its default' if full else 'reduced'}",
            unit="s",
            ours_cost=costs.ours,
            alternative_cost=costs.alternative,
        )
    neighbours: Callable[[Tensor, int], Tensor] = importlib.import_module("defenses.sanitize.knn_outlier").relative_distance
    k = max(1, 3 * rows // 40)  # as in the filter at an expected rate of 5 %
    costs = in_turns(
        lambda: [neighbours(part, k) for part in per_class[:1]], lambda: [kth_neighbour(part, k) for part in per_class[:1]], repeats=1, warm_up=False
    )
    yield Comparison(
        work=f"distance to neighbour {k} of a class of {len(per_class[0])} x {dims} features",
        ours="1,000 rows at a time, float64",
        alternative="sklearn.neighbors.NearestNeighbors",
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=costs.alternative,
    )
    clustering = importlib.import_module("defenses.sanitize.activation_clustering")
    costs = in_turns(lambda: [clustering.reduced(part, "pca", 10, Key.root(100)) for part in per_class], lambda: list(map(reduced, per_class)), repeats=1)
    yield Comparison(
        work=f"PCA to 10 of {rows} x {dims} features, {CLASSES} classes (activation clustering)",
        ours="from the covariance",
        alternative="by singular values, sklearn's PCA",
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=costs.alternative,
    )


def kth_neighbour(features_RD: Tensor, k: int) -> Tensor:
    """Return (R,) the distance of each row to its k-th neighbour divided by the median of these, by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=min(k, 3 * len(features_RD) // 4)).fit(features_RD.double().numpy()).kneighbors()
    kth = torch.from_numpy(distances[:, -1])
    return kth / kth.median()


def reduced(features_RD: Tensor) -> NDArray[np.float64]:
    """Return (R, 10) principal components by a full singular value decomposition."""
    from sklearn.decomposition import PCA

    found: NDArray[np.float64] = PCA(10, svd_solver="full").fit_transform(features_RD.double().numpy())
    return found


def top_projection(features_RD: Tensor, *, full: bool) -> Tensor:
    """Return (R,) squared projections on the top right singular vector, by a full decomposition."""
    centred = (features_RD - features_RD.mean(0)).numpy()
    _, _, directions = np.linalg.svd(centred, full_matrices=full)
    return torch.from_numpy(centred @ directions[0]).square()
