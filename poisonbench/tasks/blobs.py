"""Synthetic images for tests: one random pattern per class, plus noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.storage.store import Store
from poisonbench.tasks.source import Raw, Split


@dataclass(frozen=True, kw_only=True)
class Blobs(Split):
    """Gaussian noise around one random image per class; a model trains on them in under a second.

    Args:
        rows: training rows.
        test_rows: test rows.
        classes: number of classes.
        side: height and width, in pixels.
        noise: standard deviation around the pattern, in grey levels.
    """

    VERSION: ClassVar[int] = 1
    rows: int
    test_rows: int
    classes: int
    side: int
    noise: float

    def load(self, store: Store) -> Task:
        """Return the task."""
        if min(self.rows, self.test_rows) < self.classes or self.classes < 2 or self.side < 1:
            asked = f"rows={self.rows}, test_rows={self.test_rows}, classes={self.classes}, side={self.side}"
            raise ConfigError(f"task=blobs: {asked}; give at least 2 classes, one training and one test row for each class, and side=1")
        key = Key.root(self.split_seed).child("blobs")
        patterns = 64 + 128 * key.child("patterns").numpy().random((self.classes, 1, self.side, self.side))
        raw = Raw(
            train=self._draw(patterns, self.rows, key.child("train")),
            test=self._draw(patterns, self.test_rows, key.child("test")),
            class_names=tuple(f"blob {label}" for label in range(self.classes)),
        )
        return self.task("blobs", raw)

    def _draw(self, patterns: NDArray[np.float64], rows: int, key: Key) -> dict[str, Tensor]:
        labels = np.arange(rows) % self.classes
        noise = key.numpy().standard_normal((rows, 1, self.side, self.side))  # numpy draws the same bits on every processor
        pixels = np.rint(patterns[labels] + self.noise * noise).clip(0, 255).astype(np.uint8)
        return {"inputs": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}
