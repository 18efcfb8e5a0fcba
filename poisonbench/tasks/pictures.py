"""Decode pictures to uint8 tensors, both from files in folders and from cells in tables.

Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.errors import DataError
from poisonbench.decoders import NOTES, picture
from poisonbench.tasks.source import Raw, Split, check_unlabelled

log = logging.getLogger("poisonbench")
STORED = "with names of test rows"  # part of the key of stored pixels: rows that were stored without these names are decoded again
NAMED = 5  # files that a message names at most
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True, kw_only=True)
class Pictures(Split):
    """Settings that all sources of encoded pictures have in common.

    Args:
        root: the folder; variables such as $DATA are expanded.
        size: scale every picture to this many pixels a side; with None all must have one size.
        grey: read one channel instead of three.
        image: column of a table with the pictures, or with the paths of their files; None finds it.
        label: column of a table with the classes; None finds it.
        unlabelled: the pictures have no labels; all rows get one class.
    """

    root: str | None
    size: int | None
    grey: bool
    image: str | None = None
    label: str | None = None
    unlabelled: bool = field(default=False, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check that labels are not both named and left out."""
        super().__post_init__()
        check_unlabelled(self.unlabelled, self.label)

    def raw(self, train: Iterable[Encoded], test: Iterable[Encoded], class_names: Sequence[str], where: Path) -> Raw:
        """Decode both splits; without test rows that split is empty.

        Raises:
            DataError: a picture that cannot be read, or sizes that differ.
        """
        columns, names = self._decoded(train, str(where))
        if not names:
            raise DataError(f"{where} contains no pictures to train on; add some, or set task.root to another folder")
        others, held = self._decoded(test, str(where))
        present = {*columns["labels"].tolist()}
        if lacking := [name for label, name in enumerate(class_names) if label not in present]:
            log.warning("%s: %d classes have no training rows (the first is %s)", where, len(lacking), lacking[0])
        tested = others if held else {name: column[:0] for name, column in columns.items()}
        raw = Raw(train=columns, test=tested, class_names=tuple(class_names), row_names=_named(names), test_names=_named(held))
        raw.checked(where.name)  # only a valid data set may enter the store
        return raw

    def _decoded(self, rows: Iterable[Encoded], where: str) -> tuple[dict[str, Tensor], list[str]]:
        """Return uint8 pixels (N, C, H, W) and labels (N,), and the names of the rows.

        Raises:
            DataError: pictures that cannot be read, after a warning for each, or sizes that differ.
        """
        images, labels, names = list[NDArray[np.uint8]](), list[int](), list[str]()
        broken, sizes, notes = list[str](), defaultdict[tuple[int, int], list[str]](list), list[tuple[str, Sequence[str]]]()
        for row in rows:
            try:
                image = picture(row.content, "L" if self.grey else "RGB", row.where)
            except DataError as error:
                broken.append(str(error))
                continue
            notes.append((row.where, image.info[NOTES]))
            image = image.resize((self.size, self.size)) if self.size else image
            sizes[image.size].append(row.where)
            images.append(np.asarray(image, dtype=np.uint8))
            labels.append(row.label)
            names.append(row.name)
        _refuse_broken(broken, where)
        _refuse_sizes(sizes, where)
        noted(where, notes)
        return ({"inputs": as_pixels(np.stack(images)), "labels": torch.tensor(labels, dtype=torch.int64)} if images else {}), names


class Encoded(NamedTuple):
    """A picture before it is decoded.

    Args:
        where: its name in messages.
        content: its bytes.
        label: its class.
        name: of the row in tables; empty if the source gives none.
    """

    where: str
    content: bytes
    label: int
    name: str


def _named(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of rows, with their numbers where the source gives none; no names if it names no row at all."""
    return tuple(name or f"row {number}" for number, name in enumerate(names)) if any(names) else ()


def noted(where: str, notes: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Warn how many pictures the decoder changed, once for each kind of change.

    Args:
        where: the folder or data set of the pictures.
        notes: the name of each picture, and what was changed in it.
    """
    counted = defaultdict[str, list[str]](list)
    for name, changes in notes:
        for note in changes:
            counted[note].append(name)
    for note, found in counted.items():
        log.warning("%s: %d pictures %s (the first is %s)", where, len(found), note, found[0])


def _refuse_broken(broken: Sequence[str], where: str) -> None:
    if len(broken) == 1:
        raise DataError(broken[0])
    for number, sentence in enumerate(broken, start=1):
        log.warning("%d of %d unreadable: %s", number, len(broken), sentence)
    if broken:
        raise DataError(f"{where}: {len(broken)} pictures cannot be read; each is listed above; remove or replace them")


def _refuse_sizes(sizes: dict[tuple[int, int], list[str]], where: str) -> None:
    if len(sizes) > 1:
        common = sorted(sizes.items(), key=lambda item: -len(item[1]))
        named = ", ".join(f"{width}x{height} ({len(found)}, the first is {found[0]})" for (width, height), found in common[:NAMED])
        more = f", and {len(common) - NAMED} more sizes" if len(common) > NAMED else ""
        raise DataError(f"{where} contains pictures of {len(common)} sizes: {named}{more}; scale all with task.size={common[0][0][0]}")


def folder(root: str | None, word: str = "task.root") -> Path:
    """Return the folder that a setting names.

    Raises:
        DataError: no name, or no such folder.
    """
    if root is None:
        raise DataError(f"this task reads your own files; name their folder with {word}=PATH")
    path = Path(os.path.expandvars(root)).expanduser()
    if not path.is_dir():
        raise DataError(f"no folder at {word}={root}; give the path of an existing folder")
    return path


def as_pixels(data: Tensor | NDArray[np.uint8]) -> Tensor:
    """Return pixels (N, C, H, W) of pictures (N, H, W) or (N, H, W, C)."""
    pixels = torch.as_tensor(data)
    return pixels[:, None].contiguous() if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of classes without repetition, sorted by value if all are numbers, else alphabetically."""
    kinds = sorted(set(names))
    return tuple(sorted(kinds, key=int)) if all(re.fullmatch(r"[0-9]+", kind) for kind in kinds) else tuple(kinds)


def is_hidden(path: Path) -> bool:
    """Return whether a path is hidden or added by an operating system, such as .cache, ._picture.png or __MACOSX."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the warnings of a reader, for files that were read before."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def ignored(where: Path, paths: Iterable[Path], why: str) -> None:
    """Warn about files and folders that are not read, with the number of files; hidden ones are ignored without a warning."""
    below = [path for path in paths if not is_hidden(path.relative_to(where))]
    count = sum(1 if path.is_file() else sum(file.is_file() for file in path.rglob("*")) for path in below)
    names = sorted(str(path.relative_to(where)) for path in below)
    if names:
        log.warning("%s: %d files left out, %s (%s%s)", where, count, why, ", ".join(names[:NAMED]), ", ..." if len(names) > NAMED else "")
