"""Tasks from your own rows in memory: tensors, arrays, lists, or a data set of (picture, label).

Shape letters: N rows, C channels, H height, W width, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from poisonbench.core.data import Task
from poisonbench.core.errors import DataError
from poisonbench.core.form import Form
from poisonbench.decoders import NOTES, eight_bits, reading
from poisonbench.forms.pixels import Pixels
from poisonbench.forms.reals import Reals
from poisonbench.tasks.pictures import in_order, noted
from poisonbench.tasks.source import Raw, Split, numbered

log = logging.getLogger("poisonbench")
CHANNELS = (1, 2, 3, 4)  # grey, with alpha, colour, with alpha
WHITE = 255


class Pairs(Protocol):
    """A data set whose items are (picture, label), such as those of torchvision."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def __getitem__(self, row: int, /) -> tuple[object, object]:
        """Return a picture, as PIL image, array or tensor, and its label."""
        ...


Rows: TypeAlias = "tuple[ArrayLike | Tensor, ArrayLike | Tensor] | list[ArrayLike | Tensor] | Pairs"


def own(name: str, *, train: Rows, test: Rows | None, split: Split | None = None) -> Task:
    """Make a task from your own rows.

    Args:
        name: of the task in tables and records.
        train: a pair of inputs and labels, or a data set of (picture, label). Inputs are (N, C, H, W) or (N, H, W) uint8 pixels or
            floats in 0..1, (N, D) floats, or (N, L) int64 tokens; labels are (N,) integers from 0, or text.
        test: the same for the test rows; None if there are none.
        split: how the training rows are divided; 5 % trusted by default.

    Raises:
        DataError: rows that no data set accepts.
    """
    inputs, labels = _columns(train, f"{name}, training rows")
    others, answers = (inputs[:0], labels[:0]) if test is None else _columns(test, f"{name}, test rows")
    if (labels.dtype.kind == "U") != (answers.dtype.kind == "U"):
        raise DataError(f"{name}: training labels are {labels.dtype}, test labels {answers.dtype}; give both as text, or both as numbers")
    names = in_order(labels.tolist()) if labels.dtype.kind == "U" else numbered(_whole(labels, f"{name}, training rows"), name)
    raw = Raw(
        train={"inputs": inputs, "labels": _numbers(labels, names, f"{name}, training rows")},
        test={"inputs": others, "labels": _numbers(answers, names, f"{name}, test rows")},
        class_names=names,
        form=_form(inputs, f"{name}, training rows"),
    )
    return (split or Split(limit=None, trusted=0.05, public=0.0, split_seed=0)).task(name, raw)


def _form(inputs: Tensor, name: str) -> Form:
    """Return the form of inputs that came without one: pictures, or rows of a table.

    Raises:
        DataError: tokens, whose words are unknown, or another shape.
    """
    shapes: Mapping[tuple[torch.dtype, int], Form] = {(torch.uint8, 4): Pixels(), (torch.float32, 2): Reals.numbered(inputs.shape[-1])}
    if (form := shapes.get((inputs.dtype, inputs.ndim))) is None:
        given = f"{name}: inputs are {inputs.dtype} of shape {tuple(inputs.shape)}"
        raise DataError(f"{given}; give pixels (N, C, H, W), floats (N, D), or texts; for token ids name their vocabulary with form=Tokens(vocabulary=...)")
    return form


def _columns(rows: Rows, name: str) -> tuple[Tensor, NDArray[np.generic]]:
    """Return inputs in the form of a data set, and labels (N,) of numbers or text."""
    if isinstance(rows, tuple | list):
        if len(rows) != 2:
            raise DataError(f"{name}: a {type(rows).__name__} of {len(rows)} items; give two items, inputs and labels")
        given, labels = rows
    else:
        given, labels = _pairs(rows, name)
    with reading(name, "an array", "give inputs of one shape, and one label per row"):
        inputs, answers = _tensor(given), _answers(labels)
    return _inputs(inputs, name), answers


def _pairs(rows: Pairs, name: str) -> tuple[Sequence[NDArray[np.generic]], list[object]]:
    """Return the pictures, channels first, and the labels of a data set of (picture, label)."""
    with reading(name, "a data set of (picture, label)", "give inputs and labels, as (inputs, labels)"):
        items = [rows[row] for row in range(len(rows))]
        pictures = [_channels_first(picture) for picture, _ in items]
    noted(name, [(f"row {number}", notes) for number, (_, notes) in enumerate(pictures)])
    return [picture for picture, _ in pictures], [label for _, label in items]


def _channels_first(picture: object) -> tuple[NDArray[np.generic], Sequence[str]]:
    """Return a picture as (C, H, W) or (H, W), and notes on what changed; PIL images have channels last, tensors and arrays first."""
    from PIL.Image import Image

    if not isinstance(picture, Image):
        return _array(picture), ()
    converted = eight_bits(picture, "L" if picture.mode in ("1", "L") or picture.mode.startswith("I;16") else "RGB")
    array = np.asarray(converted)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array, converted.info[NOTES]


def _answers(labels: object) -> NDArray[np.generic]:
    """Return labels (N,) as text or numbers, from any type that NumPy can convert."""
    answers = _array(labels)
    return np.array(answers.tolist()) if answers.dtype.kind in "OS" else answers


def _array(value: object) -> NDArray[np.generic]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _tensor(value: object) -> Tensor:
    return value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.ascontiguousarray(_array(value)))


def _inputs(given: Tensor, name: str) -> Tensor:
    """Return pixels as (N, C, H, W) uint8 and features as (N, D) float32.

    Raises:
        DataError: pixels as floats outside 0..1, or with channels last.
    """
    if not given.is_floating_point():
        inputs = given[:, None] if given.ndim == 3 else given
        _check_layout(inputs, name)
        fits = inputs.ndim == 4 and inputs.numel() and bool((inputs >= 0).all() and (inputs <= WHITE).all())
        return inputs.to(torch.uint8) if fits else inputs
    if given.ndim not in (3, 4):
        return given.float()
    low, high = (float(given.min()), float(given.max())) if given.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise DataError(f"{name}: pixels are floats from {low:.4g} to {high:.4g}; give floats in 0..1 (undo any normalisation), or uint8")
    log.warning("%s: floats in 0..1 are rounded to 256 levels, round(255 x)", name)
    return _inputs((given * WHITE).round().to(torch.uint8), name)


def _check_layout(inputs: Tensor, name: str) -> None:
    """Check that channels are not the last axis: the run would not fail, but triggers and windows would be applied to the wrong axes.

    Raises:
        DataError: the last axis has the length of a channel axis, and the second axis does not.
    """
    if inputs.ndim == 4 and inputs.shape[3] in CHANNELS and inputs.shape[1] not in CHANNELS:
        layout = f"{name}: inputs of shape {tuple(inputs.shape)} look like (rows, height, width, channels)"
        raise DataError(f"{layout}; give (rows, channels, height, width): permute(0, 3, 1, 2) of a tensor, transpose(0, 3, 1, 2) of an array")


def _numbers(labels: NDArray[np.generic], names: Sequence[str], name: str) -> Tensor:
    """Return labels (N,) as int64; text becomes the position of its name in `names`.

    Raises:
        DataError: text that is not a class of the training rows.
    """
    if labels.dtype.kind != "U":
        return _whole(labels, name)
    places = {kind: place for place, kind in enumerate(names)}
    if strange := sorted({*labels.tolist()} - places.keys()):
        raise DataError(f"{name}: no training row has the label {strange[0]}; give training and test rows the same classes")
    return torch.tensor([places[label] for label in labels.tolist()], dtype=torch.int64)


def _whole(labels: NDArray[np.generic], name: str) -> Tensor:
    """Return integer labels (N,) as int64.

    Raises:
        DataError: labels that are not integers.
    """
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels are {labels.dtype}; give integers from 0, or text")
    return torch.as_tensor(labels.astype(np.int64))
