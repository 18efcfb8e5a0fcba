"""How data become a task: read, checked, decoded once, split the same way everywhere.

Shape letters: N rows, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from poisonbench.core.data import Dataset, Overlap, Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.rng import Key
from poisonbench.storage.store import Store
from poisonbench.tasks.clients import Iid, Owners, dealt


@dataclass(frozen=True, eq=False, kw_only=True)
class Raw:
    """What lies in files.

    Args:
        train: inputs and labels, "inputs" (N, C, H, W) and "labels" (N,).
        test: the same for the test rows; 0 rows, in the shape of the others, where there are none.
        class_names: one name a class.
        row_names: one name a training row, such as the path of its picture; or empty.
    """

    train: Mapping[str, Tensor]
    test: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    row_names: tuple[str, ...] = ()

    def checked(self, name: str) -> tuple[Dataset, Dataset]:
        """Return the training and the test rows as data sets.

        Raises:
            DataError: rows that are not what a data set may hold; names the task and the row.
        """
        kinds = len(self.class_names)
        train = Dataset.of(self.train["inputs"], self.train["labels"], num_classes=kinds, name=f"{name}, training rows")
        test = Dataset.of(self.test["inputs"], self.test["labels"], num_classes=kinds, name=f"{name}, test rows", empty=True)
        if train.inputs.shape[1:] != test.inputs.shape[1:]:
            raise DataError(f"{name}: training inputs are {tuple(train.inputs.shape[1:])}, test inputs {tuple(test.inputs.shape[1:])}; give both one shape")
        return train, test


@dataclass(frozen=True, kw_only=True)
class Split:
    """How the training rows are divided; the same for every seed of an experiment. The base of every source.

    Args:
        limit: training rows to keep, in the proportions of the classes; None keeps all.
        trusted: the defender's clean rows, as a share of the kept training rows.
        public: rows that nobody can poison, as a share of the kept training rows.
        split_seed: which rows, and which client holds which.
        test: test rows to hold out, as a share of the training rows, where the source has none of its own.
        clients: contributors that the rows left for training are dealt to.
        owners: how they are dealt; see `poisonbench.tasks.clients`.
        duplicates: "refuse" exact duplicates of one row in two of the splits, or "allow" and count them in the record. A row that
            comes twice among the rows left for training is no overlap.
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
        """Refuse shares and a limit that mean nothing for any data set."""
        if not (self.trusted >= 0 and self.public >= 0 and self.trusted + self.public < 1):
            raise ConfigError(f"task.trusted={self.trusted}, task.public={self.public}: shares of 0 or more that leave rows to train on")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"task.limit={self.limit}: give a number of training rows, or null for all")
        if not 0 <= self.test < 1:
            raise ConfigError(f"task.test={self.test}: give a share of the training rows between 0 and 1")

    def task(self, name: str, raw: Raw) -> Task:
        """Divide the rows of `raw`.

        Raises:
            DataError: rows that are not what a data set may hold, or that lie in two splits.
            ConfigError: shares or a limit that leave nothing to train on.
        """
        return self.accepted(self.divided(name, raw))

    def accepted(self, task: Task) -> Task:
        """Return the task if no row lies in two of its splits, or if that is allowed.

        Raises:
            DataError: rows that do: how many, and the first of them.
        """
        task = dataclasses.replace(task, overlap=self.duplicates)
        task.check()
        return task

    def divided(self, name: str, raw: Raw) -> Task:
        """Divide the rows of `raw`, whether or not some lie in two splits.

        Raises:
            DataError: rows that are not what a data set may hold.
            ConfigError: shares or a limit that leave nothing to train on.
        """
        whole, test = raw.checked(name)
        kinds = whole.num_classes
        key = Key.root(self.split_seed).child("split")
        train, test = self._held_out(name, whole, test, key.child("test"))
        if self.limit is not None and not kinds <= self.limit <= len(train):
            raise ConfigError(f"task.limit={self.limit}: the task has {len(train)} training rows of {kinds} classes; give a number between")
        places = train.with_columns(train.columns | {"inputs": torch.arange(len(train))})  # so that pixels are copied once, or never
        kept = places if self.limit is None else places.take(stratified(places, self.limit, key.child("limit"))[0])
        trusted, rest = stratified(kept, round(self.trusted * len(kept)), key.child("trusted"))
        remaining = kept.take(rest)
        public, rest = stratified(remaining, round(self.public * len(kept)), key.child("public"))
        left = train.take(remaining.inputs[rest]) if len(rest) < len(train) else train
        return Task(
            name=name,
            train=left.with_columns(left.columns | {"owners": dealt(self.owners, left, self.clients, key.child("owners"))}),
            test=test,
            trusted=train.take(kept.inputs[trusted]),
            public=train.take(remaining.inputs[public]),
            class_names=raw.class_names,
            row_names=raw.row_names,
        )

    def _held_out(self, name: str, train: Dataset, test: Dataset, key: Key) -> tuple[Dataset, Dataset]:
        """Return the rows to train on and those to test on.

        Raises:
            ConfigError: test rows are asked for where the source has some.
        """
        if not self.test:
            return train, test
        if len(test):
            raise ConfigError(f"task.test={self.test}: {name} has {len(test)} test rows of its own; leave task.test out")
        chosen, left = stratified(train, round(self.test * len(train)), key)
        held = train.take(chosen)
        return train.take(left), Dataset.of(held.inputs, held.labels, num_classes=train.num_classes, name=f"{name}, test rows", empty=True)


class Source(Protocol):
    """A task's recipe, as a frozen dataclass; those here extend `Split`."""

    def load(self, store: Store) -> Task:
        """Return the task; costly decoding is kept in `store`."""
        ...


def stratified(data: Dataset, count: int, key: Key) -> tuple[Tensor, Tensor]:
    """Choose `count` rows so that every class keeps its share, and return the others as well.

    Rows are ranked at random within their class; the `count` smallest relative ranks are chosen, so shares
    differ from the whole by less than one row a class.

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
    """Return the names of classes that have none: their numbers, from 0 to the largest of the training labels (N,).

    Raises:
        DataError: a number below the largest that no row has.
    """
    kinds = int(labels.max()) + 1 if len(labels) else 0
    present = {*labels.tolist()}
    lacking = next((label for label in range(min(kinds, len(labels) + 1)) if label not in present), None)
    if lacking is not None:
        raise DataError(f"{name}: labels go up to {kinds - 1}, and no training row has {lacking}; number the classes from 0 without a gap, or give their names")
    return tuple(str(label) for label in range(kinds))
