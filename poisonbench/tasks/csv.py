"""Tables of numbers and categories in CSV, JSON lines or Parquet.

Shape letters: N rows, D columns of the file, E columns after encoding.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from poisonbench.core.data import Dataset, Task
from poisonbench.core.errors import DataError
from poisonbench.forms.reals import Reals
from poisonbench.storage.store import Store
from poisonbench.tasks.listing import LABEL
from poisonbench.tasks.pictures import in_order
from poisonbench.tasks.sheet import Sheet, listed, number, opened
from poisonbench.tasks.source import NO_LABELS, UNLABELLED, Put, Raw, Split, check_unlabelled, copied
from poisonbench.tasks.writing import Table, write_table

if TYPE_CHECKING:
    from sklearn.preprocessing import OneHotEncoder

log = logging.getLogger("poisonbench")
MANY = 20  # rows from which a column with mostly different values is refused as a column of categories
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Csv(Split):
    """Rows of a CSV file with a header, whose cells are separated by commas, semicolons or tabs, of JSON lines, or of Parquet files.

    Numbers stay as they are: learners standardise them with their own training rows. A column of categories becomes one column of 0 and 1 for each
    category (scikit-learn's OneHotEncoder). The categories are those of the trusted and the public rows, which no attacker can write; a category
    that is not among them has 0 in all its columns. Without such rows they are those of all training rows, and a warning says that an attacker can
    influence them. Empty cells are refused, because a filled-in value would be a statistic of rows that an attacker can write.

    Args:
        root: the file, or a folder of train*.parquet and test*.parquet; variables such as $DATA are expanded.
        label: column of the classes; None finds it by its name, such as label, class or target.
        categorical: columns of categories; None takes those that contain no number.
        test_file: a second file with the test rows, in place of those that `test` holds out; None for none.
        unlabelled: the table has no labels: every column is an input, and all rows get one class.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    label: str | None
    categorical: tuple[str, ...] | None
    test_file: str | None
    unlabelled: bool = field(default=False, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check that labels are not both named and left out."""
        super().__post_init__()
        check_unlabelled(self.unlabelled, self.label)

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that cannot be read as such a table; the message names the file, the line and the column.
        """
        sheet, tested = opened(self.root, self.test_file)
        label = None if self.unlabelled else label_of(sheet, self.label)
        columns = [name for name in sheet.header if name != label]
        words = self.words(sheet, columns)
        tested = None if tested is None else tested.like(sheet)
        known = {name: in_order(cell for part in (sheet, tested) if part for cell in part.cells(name)) for name in words}
        names = (UNLABELLED,) if label is None else classes(sheet, label)
        empty = {"inputs": torch.zeros(0, len(columns)), "labels": torch.zeros(0, dtype=torch.int64)}
        raw = Raw(
            train=numbered(sheet, columns, known, (label, names)),
            test=empty if tested is None else numbered(tested, columns, known, (label, names)),
            class_names=names,
            row_names=sheet.names,
            test_names=() if tested is None else tested.names_with_file,
            form=Reals(names=tuple(columns)),
        )
        split = self if tested is None else dataclasses.replace(self, test=0.0)
        return self.accepted(encoded(split.divided(sheet.file.stem, raw), columns, known))

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the table without some rows; see `Split.kept`."""
        return write_table(Table(opened(self.root, None)[0], self.root, self.test_file), dropped, out, put)

    def words(self, sheet: Sheet, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the columns of categories.

        Raises:
            DataError: `categorical` names no column, or a column that it does not name has a value of its own in most rows.
        """
        if self.categorical is not None:
            if strange := sorted({*self.categorical} - {*columns}):
                raise DataError(f"task.categorical={strange[0]}: {sheet.file} has the columns {listed(columns)}; name some of them")
            return tuple(name for name in columns if name in self.categorical)
        found = tuple(name for name in columns if all(number(cell) is None for cell in sheet.cells(name)))
        for name in found:
            if len(sheet.rows) >= MANY and 2 * len(set(sheet.cells(name))) > len(sheet.rows):
                several = f"{len(set(sheet.cells(name)))} different values in {len(sheet.rows)} rows, so they are texts or names and no categories"
                raise DataError(f"{sheet.file}, column {name} has {several}; remove it, read it with task=texts, or name it in task.categorical")
        return found


def label_of(sheet: Sheet, label: str | None) -> str:
    """Return the column of the classes; None finds it by its name.

    Raises:
        DataError: there is no such column, or several could be meant.
    """
    if label is not None:
        if label not in sheet.header:
            raise DataError(f"task.label={label}: {sheet.file} has the columns {listed(sheet.header)}; name one of them")
        return label
    found = [name for name in sheet.header if name.lower() in LABEL]
    if len(found) != 1:
        raise DataError(f"{sheet.file} has the columns {listed(sheet.header)}; name that of the classes with task.label=COLUMN, {NO_LABELS}")
    return found[0]


def classes(sheet: Sheet, label: str) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their numbers.

    Raises:
        DataError: fewer than two, or as many as rows.
    """
    found = {*sheet.cells(label)}
    names = tuple(name for name in sheet.known[label] if name in found) if label in sheet.known else in_order(found)
    if len(names) < 2 or len(names) == len(sheet.rows):
        fault = f"the same value, {names[0]}, in every row" if len(names) < 2 else f"another value in each of its {len(names)} rows"
        raise DataError(f"task.label={label}: {sheet.file} has {fault}, so these are no classes; name another column")
    return names


def numbered(sheet: Sheet, columns: Sequence[str], known: Mapping[str, Sequence[str]], label: tuple[str | None, Sequence[str]]) -> dict[str, Tensor]:
    """Return inputs (N, D) float32 and labels (N,): a category is its number among those in `known`, a label its number among its names.

    Raises:
        DataError: a word among numbers, a number that is not finite, or a label that is no class.
    """
    inputs = np.empty((len(sheet.rows), len(columns)), dtype=np.float32)
    for place, name in enumerate(columns):
        numbers = {category: float(code) for code, category in enumerate(known[name])} if name in known else None
        values = [numbers[cell] if numbers is not None else number(cell) for cell in sheet.cells(name)]
        for row, value in enumerate(values):
            if value is None:
                advice = f"correct it, or name {name} in task.categorical"
                raise DataError(f"{sheet.where(row, name)}: {sheet.cells(name)[row]!r} is no number; {advice}")
            if not abs(value) <= LARGEST:
                raise DataError(f"{sheet.where(row, name)}: {sheet.cells(name)[row]} is not a finite number of 32 bits; correct it, or remove the row")
        inputs[:, place] = values
    column, names = label
    if column is None:
        return {"inputs": torch.from_numpy(inputs), "labels": torch.zeros(len(inputs), dtype=torch.int64)}
    kinds = {kind: code for code, kind in enumerate(names)}
    for row, kind in enumerate(sheet.cells(column)):
        if kind not in kinds:
            raise DataError(f"{sheet.where(row, column)}: {kind!r} is no class of the training rows, which are {listed(names)}; correct it, or remove the row")
    return {"inputs": torch.from_numpy(inputs), "labels": torch.tensor([kinds[kind] for kind in sheet.cells(column)], dtype=torch.int64)}


def encoded(task: Task, columns: Sequence[str], known: Mapping[str, Sequence[str]]) -> Task:
    """Return the task with a column of 0 and 1 for each category of the rows that no attacker can write.

    Args:
        task: its categories are numbers.
        columns: names of the columns.
        known: the categories of each column of categories, by their number.
    """
    if not known:
        return task
    safe = torch.cat([task.trusted.inputs, task.public.inputs])
    if not len(safe):
        log.warning("%s: the categories are those of all training rows, which an attacker can write; set task.trusted or task.public above 0", task.name)
    blocks = fitted(safe if len(safe) else task.train.inputs, columns, known)
    for name, block in blocks.items():
        if lacking := sorted({*known.get(name, ())} - {*block.categories}):
            place = "trusted or public row"
            log.warning("%s: %d categories of %s are in no %s (%s); they have 0 in all columns", task.name, len(lacking), name, place, listed(lacking))
    train, test, trusted, public = (_with_blocks(data, blocks, task.name) for data in (task.train, task.test, task.trusted, task.public))
    return dataclasses.replace(task, train=train, test=test, trusted=trusted, public=public)


class Block(NamedTuple):
    """The columns that one column of the file becomes.

    Args:
        encoder: of categories; None for numbers.
        categories: those that it knows.
    """

    encoder: OneHotEncoder | None = None
    categories: tuple[str, ...] = ()


def fitted(rows_ND: Tensor, columns: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, Block]:
    """Return for each column of the file what it becomes, with the categories in these rows."""
    from sklearn.preprocessing import OneHotEncoder

    blocks = dict[str, Block]()
    for place, name in enumerate(columns):
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(rows_ND.numpy()[:, [place]]) if name in known else None
        blocks[name] = Block(encoder, tuple(known[name][int(code)] for code in encoder.categories_[0])) if encoder else Block()
    return blocks


def _with_blocks(data: Dataset, blocks: Mapping[str, Block], name: str) -> Dataset:
    names = [entry for column, block in blocks.items() for entry in ([f"{column}={category}" for category in block.categories] if block.encoder else [column])]
    inputs = torch.zeros(0, len(names))
    if len(data):
        cells = np.split(data.inputs.numpy(), len(blocks), 1)
        parts = [block.encoder.transform(column) if block.encoder else column for block, column in zip(blocks.values(), cells, strict=True)]
        inputs = torch.from_numpy(np.hstack(parts).astype(np.float32))
    fresh = Dataset.of(inputs, data.labels, num_classes=data.num_classes, form=Reals(names=tuple(names)), name=name)
    return fresh.with_columns(data.columns | {"inputs": inputs})
