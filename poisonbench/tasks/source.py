"""How data become a task: every source is checked and split in the same way.

Shape letters: N rows, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from poisonbench.core.data import Dataset, Overlap, Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.form import Choice, Column, Form
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import Pixels
from poisonbench.storage.store import Store
from poisonbench.tasks.clients import Iid, Owners, dealt

PIXELS = Pixels()
UNLABELLED = "unlabelled"  # the one class of rows without labels
NO_LABELS = "or read the rows without labels with task.unlabelled=true"  # the end of an error about missing labels
NO_COLUMNS: Mapping[str, Column] = MappingProxyType({})
Put: TypeAlias = Callable[[Path, Path], None]  # from an absolute path to a new one


def copied(path: Path, place: Path) -> None:
    """Copy a file, byte for byte."""
    shutil.copyfile(path, place)


@dataclass(frozen=True, eq=False, kw_only=True)
class Raw:
    """The content of files, before it is split.

    Args:
        train: "inputs" (N, ...), "labels" (N,) and the further columns of the training rows.
        test: the same for the test rows; without test rows, 0 rows of the same shape.
        class_names: one name per class.
        row_names: one name per training row, such as the path of its picture; or empty.
        test_names: one name per test row; or empty.
        form: of the inputs.
        columns: form and role of further columns.
        answers: form of the labels where they are texts; None: plain classes.
    """

    train: Mapping[str, Tensor]
    test: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    row_names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()
    form: Form = PIXELS
    columns: Mapping[str, Column] = field(default_factory=lambda: NO_COLUMNS)
    answers: Choice | None = None

    def only(self, classes: tuple[int, ...] | None) -> Raw:
        """Return the rows of these classes, which are numbered from 0 in the order given; None keeps all.

        Raises:
            ConfigError: fewer than two classes, one of them twice, or one that does not exist.
        """
        if classes is None:
            return self
        kinds = len(self.class_names)
        if len(classes) < 2 or len({*classes}) < len(classes) or not all(0 <= label < kinds for label in classes):
            raise ConfigError(f"task.classes={list(classes)}: give two or more different labels from 0 to {kinds - 1}, or null for all classes")
        train, test = (_relabelled(rows, classes) for rows in (self.train, self.test))
        names, tested = (
            tuple(name for name, label in zip(named, rows["labels"].tolist(), strict=False) if label in classes)
            for named, rows in ((self.row_names, self.train), (self.test_names, self.test))
        )
        kinds_named = tuple(self.class_names[label] for label in classes)
        return dataclasses.replace(self, train=train, test=test, class_names=kinds_named, row_names=names, test_names=tested)

    def checked(self, name: str) -> tuple[Dataset, Dataset]:
        """Return the training and the test rows as data sets.

        Raises:
            DataError: rows that no data set accepts; the message names the task and the row.
        """
        train, test = self._rows(self.train, f"{name}, training rows"), self._rows(self.test, f"{name}, test rows")
        if len(train) == 0:
            raise DataError(f"{name}, training rows: no rows; give at least one row per class")
        if train.inputs.shape[1:] != test.inputs.shape[1:]:
            raise DataError(f"{name}: training inputs are {tuple(train.inputs.shape[1:])}, test inputs {tuple(test.inputs.shape[1:])}; give both one shape")
        return train, test

    def _rows(self, rows: Mapping[str, Tensor], name: str) -> Dataset:
        data = Dataset.of(rows["inputs"], rows["labels"], num_classes=len(self.class_names), form=self.form, name=name)
        for column, what in self.columns.items():
            data = data.with_column(column, rows[column], what)
        return data if self.answers is None else data.with_answers(self.answers)


def _relabelled(rows: Mapping[str, Tensor], classes: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the rows whose label is in `classes`, with its place there as their label."""
    same_NK = rows["labels"][:, None] == torch.tensor(classes)
    kept = same_NK.any(1)
    return {name: column[kept] for name, column in rows.items()} | {"labels": same_NK[kept].long().argmax(1)}


@dataclass(frozen=True, kw_only=True)
class Split:
    """How the training rows are divided; the same for every seed of an experiment. Base class of every source.

    Args:
        limit: training rows to keep, in the proportions of the classes; None keeps all.
        trusted: the defender's clean rows, as a share of the kept training rows.
        public: rows that no attacker can poison, as a share of the kept training rows.
        split_seed: seed that decides which rows are in which split, and which client gets which row.
        test: test rows to hold out, as a share of the training rows, if the source has no test rows.
        clients: contributors among which the remaining training rows are distributed.
        owners: how they are distributed; see `poisonbench.tasks.clients`.
        duplicates: "refuse" exact duplicates of a row in two splits, or "allow" them and count them in the record. A duplicate
            within the training rows is no overlap.
    """

    VERSION: ClassVar[int] = 2
    limit: int | None
    trusted: float
    public: float
    split_seed: int
    clients: int = 1
    owners: Owners = Iid()
    test: float = field(default=0.0, metadata={"spec": "changed"})
    duplicates: Overlap = field(default="refuse", metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check what can be checked of shares and limit without the data."""
        if not (self.trusted >= 0 and self.public >= 0 and self.trusted + self.public < 1):
            raise ConfigError(f"task.trusted={self.trusted}, task.public={self.public}: give shares of 0 or more with a sum below 1")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"task.limit={self.limit}: give a number of training rows, or null for all")
        if not 0 <= self.test < 1:
            raise ConfigError(f"task.test={self.test}: give a share of the training rows, from 0 to below 1")

    def task(self, name: str, raw: Raw) -> Task:
        """Divide the rows of `raw`.

        Raises:
            DataError: rows that no data set accepts, or rows in two splits.
            ConfigError: shares or a limit that leave nothing to train on.
        """
        return self.accepted(self.divided(name, raw))

    def accepted(self, task: Task) -> Task:
        """Return the task if no row is in two splits, or if `duplicates` allows that.

        Raises:
            DataError: rows in two splits; the message says how many, and names the first.
        """
        task = dataclasses.replace(task, overlap=self.duplicates)
        task.check()
        return task

    def divided(self, name: str, raw: Raw) -> Task:
        """Divide the rows of `raw` without a check for rows in two splits.

        Raises:
            DataError: rows that no data set accepts.
            ConfigError: shares or a limit that leave nothing to train on.
        """
        whole, test = raw.checked(name)
        kinds = whole.num_classes
        key = Key.root(self.split_seed).child("split")
        train, test = self._held_out(name, whole, test, key.child("test"))
        held = raw.row_names and self.test
        test_names = tuple(raw.row_names[number] for number in test.ids.tolist()) if held else raw.test_names
        if self.limit is not None and not kinds <= self.limit <= len(train):
            raise ConfigError(f"task.limit={self.limit}: {len(train)} training rows of {kinds} classes; give a number from {kinds} to {len(train)}")
        places = train.with_columns(train.columns | {"inputs": torch.arange(len(train))})  # positions instead of pixels, so that pixels are copied at most once
        kept = places if self.limit is None else places.take(stratified(places, self.limit, key.child("limit"))[0])
        trusted, rest = stratified(kept, round(self.trusted * len(kept)), key.child("trusted"))
        remaining = kept.take(rest)
        public, rest = stratified(remaining, round(self.public * len(kept)), key.child("public"))
        left = train.take(remaining.inputs[rest]) if len(rest) < len(train) else train
        return Task(
            name=name,
            train=left.with_columns(left.columns | {"owners": dealt(self.owners, left, self.clients, key.child("owners"))}),
            test=test.with_columns(test.columns | {"ids": torch.arange(len(test))}),
            trusted=train.take(kept.inputs[trusted]),
            public=train.take(remaining.inputs[public]),
            class_names=raw.class_names,
            row_names=raw.row_names,
            test_names=test_names,
        )

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the files of this source without some training rows, in their own format; return what `root` has to name to read them.

        Args:
            dropped: rows to leave out, by their number among all training rows of the source, which is their id.
            out: an empty folder.
            put: how a file that stays as it is gets to its new path.

        Raises:
            DataError: the rows are not in files that can be written back.
        """
        raise DataError("rows of this task cannot be written back, because it generates them or reads a fixed set; leave apply out, and use suspects.csv")

    def _held_out(self, name: str, train: Dataset, test: Dataset, key: Key) -> tuple[Dataset, Dataset]:
        """Return the training rows and the test rows; test rows that are held out still have their numbers among all rows.

        Raises:
            ConfigError: `test` is above 0 although the source has test rows.
        """
        if not self.test:
            return train, test
        if len(test):
            raise ConfigError(f"task.test={self.test}: {name} has {len(test)} test rows already; leave task.test out")
        chosen, left = stratified(train, round(self.test * len(train)), key)
        return train.take(left), train.take(chosen)


class Source(Protocol):
    """The recipe of a task, as a frozen dataclass; those in this package extend `Split`."""

    def load(self, store: Store) -> Task:
        """Return the task; the store keeps decoded pixels."""
        ...


class Writable(Source, Protocol):
    """The recipe of a task that may be able to write its rows back."""

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the files of this source without some training rows; see `Split.kept`."""
        ...


def stratified(data: Dataset, count: int, key: Key) -> tuple[Tensor, Tensor]:
    """Choose `count` rows so that every class keeps its share, and return the others as well.

    Rows are ranked at random within their class; the rows with the `count` smallest relative ranks are chosen, so
    shares differ from those of all rows by less than one row per class.

    Returns:
        Two ascending (int64) position tensors, chosen and left.
    """
    draws = key.per_row(data.ids)[:, 0]
    relative = torch.empty(len(data), dtype=torch.float64)
    for label in data.labels.unique().tolist():
        rows = (data.labels == label).nonzero()[:, 0]
        relative[rows[draws[rows].argsort(stable=True)]] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    order = relative.argsort(stable=True)
    return order[:count].sort().values, order[count:].sort().values


def numbered(labels: Tensor, name: str) -> tuple[str, ...]:
    """Return names for classes without names: their numbers, from 0 to the largest training label (N,).

    Raises:
        DataError: a label below the largest that no row has.
    """
    kinds = int(labels.max()) + 1 if len(labels) else 0
    present = {*labels.tolist()}
    lacking = next((label for label in range(min(kinds, len(labels) + 1)) if label not in present), None)
    if lacking is not None:
        raise DataError(f"{name}: the largest label is {kinds - 1}, but no training row has {lacking}; number the classes from 0 without a gap, or give names")
    return tuple(str(label) for label in range(kinds))


def check_unlabelled(unlabelled: bool, label: str | None) -> None:
    """Refuse a column of labels for rows that are read without labels.

    Raises:
        ConfigError: both are set.
    """
    if unlabelled and label is not None:
        raise ConfigError(f"task.label={label} names the labels, and task.unlabelled=true reads the rows without labels; leave one of them out")
