"""The embedded default: scikit-learn's bundled 8x8 digits, real images without a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from poisonbench.core.data import Dataset, Task
from poisonbench.core.rng import Key
from poisonbench.store import Store
from poisonbench.tasks.source import Raw, Split, stratified

TEST_ROWS = 360


@dataclass(frozen=True, kw_only=True)
class Digits(Split):
    """1,797 handwritten digits, 8x8 grey pixels: 1,437 rows for training, 360 for testing.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, the part that
    scikit-learn ships. Its 17 grey levels are spread over 0..255. The test rows are the same for every seed and
    setting: drawn once, class by class.
    """

    VERSION: ClassVar[int] = 1

    def load(self, store: Store) -> Task:
        """Return the task."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        every = Dataset.of(torch.from_numpy(pixels)[:, None], torch.from_numpy(bunch.target).long(), num_classes=10, name="digits")
        test, train = stratified(every, TEST_ROWS, Key.root(0).child("digits"))
        raw = Raw(
            train={"inputs": every.inputs[train], "labels": every.labels[train]},
            test={"inputs": every.inputs[test], "labels": every.labels[test]},
            class_names=tuple(str(digit) for digit in range(10)),
        )
        return self.task("digits", raw)
