"""The default task: the 8x8 digits that come with scikit-learn, real images without a download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from poisonbench.core.data import Dataset, Task
from poisonbench.core.rng import Key
from poisonbench.storage.store import Store
from poisonbench.tasks.source import Raw, Split, stratified

TEST_ROWS = 360


@dataclass(frozen=True, kw_only=True)
class Digits(Split):
    """1,797 handwritten digits, 8x8 grey pixels: 1,437 rows for training, 360 for testing.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, the part that comes with
    scikit-learn. Its 17 grey levels are scaled to 0..255. The test rows are the same for every seed and setting:
    they are drawn once, in the proportions of the classes.
    """

    VERSION: ClassVar[int] = 1

    def load(self, store: Store) -> Task:
        """Return the task."""
        images, labels = bundled()
        pixels = np.rint(images * (255 / 16)).astype(np.uint8)
        every = Dataset.of(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels), num_classes=10, name="digits")
        test, train = stratified(every, TEST_ROWS, Key.root(0).child("digits"))
        raw = Raw(
            train={"inputs": every.inputs[train], "labels": every.labels[train]},
            test={"inputs": every.inputs[test], "labels": every.labels[test]},
            class_names=tuple(str(digit) for digit in range(10)),
        )
        return self.task("digits", raw)


def bundled() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (1797, 8, 8) grey levels in 0..16 and (1797,) labels from scikit-learn's own file.

    Reading the file by its path takes 30 ms; importing scikit-learn takes 1.2 s of CPU. It is imported only if the file is not found.
    """
    package = find_spec("sklearn")
    path = Path(str(package.origin if package else "")).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target.astype(np.int64)
    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
