"""Poison in arrays of numpy, as users of ART and of other libraries without a file format save it.

Shape letters: R rows, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.data import Dataset, Task
from poisonbench.core.errors import DataError
from poisonbench.decoders import reading
from poisonbench.pickled import BYTES

NAMES = ("x", "y", "indices", "x_test", "y_test", "indices_test")


def read(path: Path, task: Task) -> Mapping[str, Tensor]:
    """Return the arrays of a .npz file in the form of a task's rows.

    Args:
        path: `x` poisoned rows and `y` their labels, for the training rows `indices`; `x_test` test rows as the attacker presents them and `y_test` the
            answers that the attacker wants, for the test rows `indices_test`. Pictures are (R, C, H, W) or (R, H, W, C), in 0..255 or fractions
            in [0, 1] of 255; labels are numbers, or (R, K) with a 1 for the class.
        task: whose rows were poisoned.

    Raises:
        DataError: another content, objects in place of numbers, or too many bytes.
    """
    with reading(path, "arrays of numbers", f"save it with numpy.savez and the names {', '.join(NAMES)}"):
        with zipfile.ZipFile(path) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > BYTES:
                raise DataError(f"{path} has {size:,} bytes; at most {BYTES:,} are read")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in NAMES}
    if flat := next((name for name in NAMES if not arrays[name].ndim), None):
        raise DataError(f"{path}: {flat} is a single value; it has to have one entry for each row")
    found = dict[str, Tensor]()
    for end, rows in (("", task.train), ("_test", task.test)):
        places = arrays[f"indices{end}"]
        if places.ndim != 1 or places.dtype.kind not in "iu" or not len(places) == len(arrays[f"x{end}"]) == len(arrays[f"y{end}"]):
            raise DataError(f"{path}: indices{end} has to be one whole number for each row of x{end} and y{end}")
        for name in (f"indices{end}", f"y{end}"):
            if arrays[name].dtype.kind == "u" and (arrays[name] >= 2**63).any():
                raise DataError(f"{path}: {name} has a number above {2**63 - 1}; choose the task that was poisoned")
        found[f"indices{end}"] = torch.from_numpy(places.astype(np.int64))
        found[f"x{end}"] = _inputs(arrays[f"x{end}"], rows, f"{path}: x{end}")
        found[f"y{end}"] = _labels(arrays[f"y{end}"], rows.num_classes, f"{path}: y{end}")
    return found


def _inputs(x: NDArray[np.generic], rows: Dataset, name: str) -> Tensor:
    """Return rows with the shape and the type of a task's.

    Raises:
        DataError: they have another shape, or values that are no grey levels.
    """
    shape = tuple(rows.inputs.shape[1:])
    if len(shape) == 3 and x.shape[1:] == (*shape[1:], shape[0]) and x.shape[1:] != shape:
        x = x.transpose(0, 3, 1, 2)
    if x.dtype.kind not in "uif":
        raise DataError(f"{name} has the type {x.dtype}; give whole numbers or fractions")
    if x.shape[1:] != shape:
        raise DataError(f"{name} has rows of shape {x.shape[1:]}, and those of this task have {shape}; choose the task that was poisoned")
    if rows.inputs.dtype != torch.uint8:
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64 if x.dtype.kind == "f" else np.int64)).to(rows.inputs.dtype)
    levels = x.astype(np.float64) * (255 if x.dtype.kind == "f" and x.size and x.max() <= 1 else 1)
    if not ((levels >= 0) & (levels <= 255) & (np.abs(levels - levels.round()) < 1e-3)).all():
        raise DataError(f"{name} has values between the grey levels 0 to 255, which no picture in a file has; round them as the attack's paper does")
    return torch.from_numpy(levels.round().astype(np.uint8))


def _labels(y: NDArray[np.generic], kinds: int, name: str) -> Tensor:
    """Return (R,) int64 labels.

    Raises:
        DataError: no whole numbers, or rows that do not have a single 1.
    """
    if y.ndim == 2 and y.shape[1] == kinds and y.dtype.kind in "uif" and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        return torch.from_numpy(y.argmax(1).astype(np.int64))
    if y.ndim == 1 and y.dtype.kind in "iu":
        return torch.from_numpy(y.astype(np.int64))
    raise DataError(
        f"{name} has to be a whole number for each row, or (R, {kinds}) with a single 1 in each row; it has the type {y.dtype} and the shape {y.shape}"
    )
