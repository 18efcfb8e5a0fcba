"""Tasks from your own rows in memory: tensors, arrays, data frames, lists of texts, or a data set of (picture, label).

Shape letters: N rows, C channels, H height, W width, D features.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

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
from poisonbench.tasks.texts import Document, Texts

log = logging.getLogger("poisonbench")
CHANNELS = (1, 2, 3, 4)  # grey, with alpha, colour, with alpha
WHITE = 255
READER = Texts(limit=None, trusted=0.0, public=0.0, split_seed=0, length=None, room=16, words=())  # as the tasks of texts for networks have it


class Pairs(Protocol):
    """A data set whose items are (picture, label), such as those of torchvision, or (text, label)."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def __getitem__(self, row: int, /) -> tuple[object, object]:
        """Return a picture, as PIL image, array or tensor, and its label."""
        ...


Rows: TypeAlias = "tuple[ArrayLike | Tensor, ArrayLike | Tensor] | list[ArrayLike | Tensor] | Pairs"


class Given(NamedTuple):
    """Rows as they were given: inputs of any kind, and labels (N,) of numbers or text."""

    inputs: object
    labels: NDArray[np.generic]


def own(name: str, *, train: Rows, test: Rows | None, split: Split | None = None, form: Form | None = None, words: Sequence[str] = ()) -> Task:  # noqa: PLR0913  # all but three arguments have a default
    """Make a task from your own rows.

    Args:
        name: of the task in tables and records.
        train: a pair of inputs and labels, or a data set of (picture, label). Inputs are (N, C, H, W) or (N, H, W) uint8 pixels or
            floats in 0..1, (N, D) floats, a data frame of numbers, or N texts; labels are (N,) integers from 0, or text.
        test: the same for the test rows; None if there are none.
        split: how the training rows are divided; 5 % trusted by default.
        form: of the inputs, such as `Tokens(vocabulary=...)` for (N, L) int64 token ids; None finds it, except for token ids.
        words: for texts, words that an attacker may use although no row has them.

    Raises:
        DataError: rows that no data set accepts.
    """
    if isinstance(words, str):
        raise DataError(f"{name}: words={words!r} is a text; give a list of words, such as [{words!r}]")
    splits = [f"{name}, training rows", f"{name}, test rows"]
    given = [_given(rows, which) for rows, which in zip((train, test), splits, strict=True) if rows is not None]
    labels = given[0].labels
    if len(labels) == 0:
        raise DataError(f"{splits[0]}: no rows; give at least one row per class")
    if len(given) == 2 and (labels.dtype.kind == "U") != (given[1].labels.dtype.kind == "U"):
        raise DataError(f"{name}: training labels are {labels.dtype}, test labels {given[1].labels.dtype}; give both as text, or both as numbers")
    names = in_order(labels.tolist()) if labels.dtype.kind == "U" else numbered(_whole(labels, splits[0]), name)
    answers = [_numbers(part.labels, names, which) for part, which in zip(given, splits, strict=False)]
    if _texts(given[0].inputs):
        if form is not None:
            raise DataError(f"{name}: form has no effect on texts, whose vocabulary is made from the rows; leave it out, or give token ids")
        texts = [_documents(part.inputs, labels, which) for part, labels, which in zip(given, answers, splits, strict=False)]
        raw = dataclasses.replace(READER, words=tuple(words)).raw(name, texts[0], texts[1] if len(texts) == 2 else [], names)
    else:
        if words:
            raise DataError(f"{name}: words has an effect on texts alone; leave it out")
        inputs = [_rows(part.inputs, given[0].inputs, which) for part, which in zip(given, splits, strict=False)]
        columns = [{"inputs": rows, "labels": known} for rows, known in zip(inputs, answers, strict=True)]
        none = {column: values[:0] for column, values in columns[0].items()}
        found = form or _form(inputs[0], given[0].inputs, splits[0])
        raw = Raw(train=columns[0], test=columns[1] if len(columns) == 2 else none, class_names=names, form=found)
    return (split or Split(limit=None, trusted=0.05, public=0.0, split_seed=0)).task(name, raw)


def _texts(inputs: object) -> bool:
    """Return whether inputs are N texts."""
    if isinstance(inputs, list | tuple):
        return len(inputs) > 0 and isinstance(inputs[0], str)
    array = np.zeros(0) if isinstance(inputs, Tensor) else np.asarray(inputs)
    return array.ndim == 1 and len(array) > 0 and isinstance(array.tolist()[0], str)


def _documents(inputs: object, labels: Tensor, name: str) -> list[Document]:
    """Return texts and labels as documents.

    Raises:
        DataError: something that is not a text, or another number of labels.
    """
    texts = list(inputs) if isinstance(inputs, list | tuple) else _array(inputs).tolist()
    if len(texts) != len(labels):
        raise DataError(f"{name}: {len(texts)} texts and {len(labels)} labels; give one label per text")
    if strange := [row for row, text in enumerate(texts) if not isinstance(text, str)]:
        raise DataError(f"{name}: row {strange[0]} is a {type(texts[strange[0]]).__name__}; give a text for every row")
    return [Document(text, label, f"row {row}") for row, (text, label) in enumerate(zip(texts, labels.tolist(), strict=True))]


def _rows(inputs: object, first: object, name: str) -> Tensor:
    """Return inputs in the form of a data set; the columns of a data frame are ordered as in the first one.

    Raises:
        DataError: a column that is missing or holds texts, or inputs that are no array.
    """
    names, own = getattr(first, "columns", None), getattr(inputs, "columns", None)
    if names is not None:
        if own is None or (lacking := [column for column in names if column not in [*own]]):
            raise DataError(
                f"{name}: the training rows have the column {names[0] if own is None else lacking[0]}, these rows do not; give both the same columns"
            )
        columns = {column: _array(inputs[column]) for column in names}  # type: ignore[index]
        if texts := [column for column, cells in columns.items() if cells.dtype.kind not in "biuf"]:
            raise DataError(f"{name}: column {texts[0]} holds no numbers; encode it, or write the table to a CSV file and use task=csv")
        return torch.from_numpy(np.stack([cells.astype(np.float32) for cells in columns.values()], 1))
    with reading(name, "an array", "give inputs of one shape, and one label per row"):
        tensor = _tensor(inputs)
    return _inputs(tensor, name)


def _form(inputs: Tensor, given: object, name: str) -> Form:
    """Return the form of inputs that came without one: pictures, or rows of a table.

    Raises:
        DataError: tokens, whose words are unknown, or another shape.
    """
    named = getattr(given, "columns", None)  # of a data frame
    columns = Reals.numbered(inputs.shape[-1]) if named is None else Reals(names=tuple(map(str, named)))
    shapes: Mapping[tuple[torch.dtype, int], Form] = {(torch.uint8, 4): Pixels(), (torch.float32, 2): columns}
    if (form := shapes.get((inputs.dtype, inputs.ndim))) is None:
        got = f"{name}: inputs are {inputs.dtype} of shape {tuple(inputs.shape)}"
        raise DataError(f"{got}; give uint8 pixels (N, C, H, W), floats (N, D), or texts; for token ids name their vocabulary with form=Tokens(vocabulary=...)")
    return form


def _given(rows: Rows, name: str) -> Given:
    """Return inputs and labels."""
    if isinstance(rows, tuple | list):
        if len(rows) != 2:
            raise DataError(f"{name}: a {type(rows).__name__} of {len(rows)} items; give two items, inputs and labels")
        inputs, labels = rows
    else:
        inputs, labels = _pairs(rows, name)
    with reading(name, "an array", "give inputs of one shape, and one label per row"):
        return Given(inputs, _answers(labels))


def _pairs(rows: Pairs, name: str) -> tuple[Sequence[object], list[object]]:
    """Return the pictures, channels first, or the texts, and the labels of a data set of (picture, label) or (text, label)."""
    with reading(name, "a data set of (picture, label)", "give inputs and labels, as (inputs, labels)"):
        items = [rows[row] for row in range(len(rows))]
        if items and isinstance(items[0][0], str):
            return [text for text, _ in items], [label for _, label in items]
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
    return value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.require(_array(value), requirements=["C", "W"]))


def _inputs(given: Tensor, name: str) -> Tensor:
    """Return pixels as (N, C, H, W) uint8 and features as (N, D) float32.

    Raises:
        DataError: pixels as floats outside 0..1, or with channels last.
    """
    if not given.is_floating_point():
        inputs = given[:, None] if given.ndim == 3 else given
        _check_layout(inputs, name)
        fits = inputs.ndim == 4 and inputs.numel() and bool((inputs >= 0).all() and (inputs <= WHITE).all())
        return inputs.to(torch.uint8) if fits else inputs.long() if inputs.ndim == 2 else inputs
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
