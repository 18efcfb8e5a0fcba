"""Filters on many features: spectral signatures against a singular value decomposition a class, and what the others take."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._timing import in_turns
from poisonbench.assemble import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.report.benchmarks import Comparison

CLASSES = 10


def measure(data: Path | None, *, rows: int = 50_000, dims: int = 512, repeats: int = 3) -> Iterator[Comparison]:
    """Yield spectral scores of all classes against `numpy.linalg.svd`, reduced and, once, full."""
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


def top_projection(features_RD: Tensor, *, full: bool) -> Tensor:
    """Return (R,) squared projections on the top right singular vector, by a whole decomposition."""
    centred = (features_RD - features_RD.mean(0)).numpy()
    _, _, directions = np.linalg.svd(centred, full_matrices=full)
    return torch.from_numpy(centred @ directions[0]).square()
