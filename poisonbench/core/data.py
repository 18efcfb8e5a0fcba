"""Data sets as immutable values, and the task that an experiment starts from.

Shape letters: N rows, K answers, R rows touched.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from poisonbench.core.ask import SCORES, Scores
from poisonbench.core.duplicates import duplicates
from poisonbench.core.errors import DataError
from poisonbench.core.form import IDENTITY, Choice, Column, Form
from poisonbench.core.keys import key, tensor_digest

Overlap: TypeAlias = Literal["refuse", "allow"]
NAMED = 3  # duplicates that an error names
NO_COLUMNS: Mapping[str, Tensor] = MappingProxyType({})
PLAIN = Form()


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Rows of one split. Read-only by contract: `take`, `edit` and `append` return new values.

    Args:
        inputs: (N, ...), in the form that the schema names.
        labels: (N,) int64 in [0, num_classes).
        ids: (N,) int64 row number in the clean set; injected rows are -1, -2, ... Random draws depend on it.
        owners: (N,) int64 contributing client; 0 when central.
        schema: the form and the role of every column.
        extra: further columns, (N, ...) each; every operation treats them alike.
        ask: how a victim is asked about these rows; of use for test rows.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    owners: Tensor
    schema: Mapping[str, Column]
    extra: Mapping[str, Tensor] = field(default_factory=lambda: NO_COLUMNS)
    ask: Scores = SCORES

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor, *, num_classes: int, form: Form = PLAIN, name: str = "data") -> Dataset:
        """Check tensors and number their rows from 0.

        Args:
            inputs: (N, ...).
            labels: (N,) integers.
            num_classes: number of answers.
            form: of the inputs.
            name: of the rows, for errors.

        Raises:
            DataError: values that do not fit their form, or labels out of range.
        """
        if labels.ndim != 1 or len(labels) != len(inputs):
            raise DataError(f"{name}: {len(inputs)} inputs, labels of shape {tuple(labels.shape)}; give one label per row")
        answers = Choice(size=num_classes)
        for values, fits in ((labels, answers), (inputs, form)):
            if fault := fits.fault(values):
                raise DataError(f"{name}: {fault}")
        rows = torch.arange(len(labels))
        schema = {"inputs": Column(form=form, role="seen"), "labels": Column(form=answers, role="said"), "ids": IDENTITY, "owners": IDENTITY}
        return cls(inputs=inputs, labels=labels.to(torch.int64), ids=rows, owners=torch.zeros_like(rows), schema=MappingProxyType(schema))

    def with_column(self, name: str, values: Tensor, column: Column) -> Dataset:
        """Return a data set with a further column (N, ...).

        Raises:
            DataError: not one value per row, or values that do not fit the column's form.
        """
        if len(values) != len(self) or (fault := column.form.fault(values)):
            raise DataError(f"column {name}: {fault if len(values) == len(self) else f'{len(values)} values for {len(self)} rows'}")
        extra, schema = MappingProxyType({**self.extra, name: values}), MappingProxyType({**self.schema, name: column})
        return dataclasses.replace(self, extra=extra, schema=schema)

    def with_answers(self, answers: Choice) -> Dataset:
        """Return a data set whose labels have this form, which has as many answers as theirs."""
        assert answers.size == self.num_classes, "one answer for each class"
        labels = dataclasses.replace(self.schema["labels"], form=answers)
        return dataclasses.replace(self, schema=MappingProxyType({**self.schema, "labels": labels}))

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.labels)

    @property
    def form(self) -> Form:
        """The form of the inputs."""
        return self.schema["inputs"].form

    @property
    def num_classes(self) -> int:
        """Number of answers, K."""
        choice = self.schema["labels"].form
        assert isinstance(choice, Choice)
        return choice.size

    @property
    def columns(self) -> dict[str, Tensor]:
        """Every column by name, `inputs` and `labels` first."""
        return {"inputs": self.inputs, "labels": self.labels, "ids": self.ids, "owners": self.owners, **self.extra}

    def with_columns(self, columns: Mapping[str, Tensor]) -> Dataset:
        """Return a data set with these columns in place of its own."""
        fixed = ("inputs", "labels", "ids", "owners")
        extra = MappingProxyType({name: column for name, column in columns.items() if name not in fixed})
        inputs, labels, ids, owners = (columns[name] for name in fixed)
        return dataclasses.replace(self, inputs=inputs, labels=labels, ids=ids, owners=owners, extra=extra)

    def take(self, rows: Tensor) -> Dataset:
        """Return the rows at these positions, or where a boolean mask holds."""
        taken = self.with_columns({name: column[rows] for name, column in self.columns.items()})
        return taken if self.ask is SCORES else dataclasses.replace(taken, ask=self.ask.take(rows))

    def edit(self, rows: Tensor, *, inputs: Tensor | None = None, labels: Tensor | None = None, **columns: Tensor) -> Dataset:
        """Return a copy whose rows at positions `rows` (R,) hold new values; columns not named are kept."""
        given = {"inputs": inputs, "labels": labels, **columns}
        changed = {name: _put(self.columns[name], rows, values) for name, values in given.items() if values is not None}
        return self.with_columns(self.columns | changed)

    def append(self, other: Dataset) -> Dataset:
        """Return these rows followed by those of `other`, which must hold the same columns."""
        assert self.columns.keys() == other.columns.keys(), "both data sets need the same columns"
        return self.with_columns({name: torch.cat([column, other.columns[name]]) for name, column in self.columns.items()})

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes of every column, and over the forms that are part of it."""
        whole = hashlib.sha256(str(self.num_classes).encode())
        if told := {name: column for name, column in self.schema.items() if name in self.extra or column.form.KEYED}:
            whole.update(key(told).encode())
        if self.ask != SCORES:
            whole.update(key(self.ask).encode())
        for name, column in self.columns.items():
            whole.update(f"{name}={tensor_digest(column)};".encode())
        return whole.hexdigest()

    @property
    def content(self) -> str:
        """What a data set contributes to a key."""
        return self.digest


def _put(column: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    fresh = column.clone()
    fresh[rows] = values
    return fresh


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """Where an experiment starts: four splits, which share no row unless the task's recipe says `duplicates: allow`.

    Args:
        name: its name in tables and records.
        train: the rows an attacker may reach.
        test: rows for measuring, never for choosing anything; may be empty where nothing is measured, as in `audit`.
        trusted: the defender's clean rows, split off the training rows; may be empty.
        public: rows that cannot be poisoned, for extractors; may be empty.
        class_names: one name per class, or empty.
        row_names: one name per training row of the source, by its id; or empty.
        test_names: one name per test row, by its id; or empty.
        overlap: "refuse" exact duplicates of one row in two of the splits, or "allow" them; the record then counts them.
    """

    name: str
    train: Dataset
    test: Dataset
    trusted: Dataset
    public: Dataset
    class_names: tuple[str, ...] = ()
    row_names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()
    overlap: Overlap = "refuse"

    def check(self) -> None:
        """Refuse rows that are in two splits, unless that is allowed.

        Raises:
            DataError: how many there are, and the first of them.
        """
        if self.overlap == "refuse" and self.duplicates:
            shared = "; ".join(self._shared(pair) for pair in self.duplicates)
            raise DataError(f"{self.name}: {shared}; remove them, or accept and count them with task.duplicates=allow")

    def check_test(self) -> None:
        """Refuse a task without test rows; for runs that measure on them or aim at one.

        Raises:
            DataError: what to add.
        """
        if len(self.test) == 0:
            missing = f"{self.name} has no test rows, on which C-Acc and ASR are measured"
            raise DataError(f"{missing}; add some (for your own files task.test=0.2 holds some out), or run `audit`, which needs none")

    def _shared(self, pair: str) -> str:
        """Return how many rows two splits share, and name the first of them."""
        one, other = pair.split("/")
        places = self.duplicates[pair].tolist()
        named = [f"{self._row(other, second)} is {self._row(one, first)}" for first, second in places[:NAMED]]
        more = ", ..." if len(places) > NAMED else ""
        return f"{len(places)} {other} rows are {one} rows too ({', '.join(named)}{more})"

    def _row(self, split: str, place: int) -> str:
        """Return the name of a row: that of its source, or the split and the number of the row in the source."""
        number = int(getattr(self, split).ids[place])
        names = self.test_names if split == "test" else self.row_names
        return names[number] if names else f"{split} row {number}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the four splits."""
        return key(self.train, self.test, self.trusted, self.public)

    def untouched(self) -> bool:
        """Return whether the rows still match `digest`, so that no plugin has written into them."""
        train, test, trusted, public = (dataclasses.replace(split) for split in (self.train, self.test, self.trusted, self.public))  # without their digests
        return dataclasses.replace(self, train=train, test=test, trusted=trusted, public=public).digest == self.digest

    @cached_property
    def duplicates(self) -> Mapping[str, Tensor]:
        """The rows that two splits share, by the splits' names; see `poisonbench.core.duplicates`."""
        splits = {"train": self.train, "test": self.test, "trusted": self.trusted, "public": self.public}
        return duplicates({name: split.inputs for name, split in splits.items()})
