"""Read a training set that `export` wrote, without the information which rows are poisoned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from poisonbench.core.ask import Candidates
from poisonbench.core.data import Dataset, Task
from poisonbench.core.errors import ConfigError, DataError, PoisonbenchError
from poisonbench.core.files import bounded, file_digest
from poisonbench.core.form import Column
from poisonbench.forms.pixels import Pixels
from poisonbench.storage.freeze import thaw
from poisonbench.storage.store import Store
from poisonbench.tasks.pictures import folder
from poisonbench.tasks.source import Raw, Split

FORMATS = (1, 2, 3, 4, 5)
SPLITS = ("train", "test", "trusted", "public")
TRUSTED = ("poisonbench.forms.", "poisonbench.core.form.")  # the only classes that task.json may name
ANSWERS = "answers"  # the file with the candidate answers of a task of questions
NONE = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Exported(Split):
    """A folder that `export` wrote: train.safetensors, test.safetensors, task.json, and clean rows in trusted.safetensors and public.safetensors.

    A task of questions, whose test rows have candidate answers, also has answers.safetensors: `table` (A, La), the distinct answers, and `of`
    (M, K), which of them each question has. Choose `learner=retrieval` for it.

    Trusted and public rows are those of the exported run. They are never taken from the training rows, some of which are poisoned,
    so `trusted` and `public` must be 0. Folders of format 1 contain no trusted or public rows. The mask in the folder is not read.

    Args:
        root: the folder; variables such as $DATA are expanded.
    """

    VERSION: ClassVar[int] = 2
    root: str | None

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such folder, or files that changed since `export` wrote them.
            ConfigError: `trusted` or `public` is not 0.
        """
        root = folder(self.root)
        try:
            description = json.loads(bounded((root / "task.json").read_text(encoding="utf-8")))
            names = [name for name in (*SPLITS, ANSWERS) if name in ("train", "test") or name in description["sha256"]]
            if description["format"] not in FORMATS:
                known = f"this version reads formats {FORMATS[0]} to {FORMATS[-1]}"
                raise DataError(f"{root} was exported by another version (format {description['format']}; {known}); export the record again with this version")
            changed = [name for name in names if file_digest(root / f"{name}.safetensors") != description["sha256"][name]]
            if changed:
                raise DataError(f"{root}: {', '.join(changed)} differs from what `export` wrote; export the record again")
            self._check_shares(root, description["format"])
            rows = {name: load_file(root / f"{name}.safetensors") for name in names}
            columns = _columns(description)
            asked = rows["test"] if ANSWERS in rows else None
            raw = Raw(
                train=rows["train"],
                test=rows["test"] if asked is None else {name: rows["train"][name][:0] for name in ("labels", *columns["train"])},
                class_names=tuple(str(name) for name in description["class_names"]),
                form=columns["train"]["inputs"].form,
                columns={name: column for name, column in columns["train"].items() if name != "inputs"},
            )
            task = self.divided(f"{description['name']}-poisoned", raw)
            trusted, public = (
                _clean(rows[name], f"{root}, {name} rows", task.train, columns[name]) if name in rows else task.train.take(NONE) for name in SPLITS[2:]
            )
            test = task.test if asked is None else _asked(asked, rows[ANSWERS], f"{root}, test rows", task.train, columns["test"])
        except PoisonbenchError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{root} contains no training set from `export` ({type(error).__name__}: {error}); export the record again") from error
        return self.accepted(dataclasses.replace(task, test=test, trusted=trusted, public=public))

    def _check_shares(self, root: Path, written: int) -> None:
        """Check that no trusted or public rows are taken from the training rows, which may be poisoned.

        Raises:
            ConfigError: `trusted` or `public` is not 0.
        """
        if not self.trusted and not self.public:
            return
        asked = f"task.trusted={self.trusted}, task.public={self.public}: rows of {root} may be poisoned, so they cannot serve as clean rows"
        if written == 1:
            raise ConfigError(
                f"{asked}; the folder was written before exports contained trusted rows: export the record again, and give task.trusted=0 task.public=0"
            )
        raise ConfigError(f"{asked}; give task.trusted=0 task.public=0: the trusted and public rows of the exported run are in the folder")


def _columns(description: Mapping[str, Any]) -> dict[str, dict[str, Column]]:
    """Return the form and role of the inputs and of further columns, for each split.

    Folders before format 4 have pictures alone; before format 5 all splits have the same columns.
    """
    if description["format"] < 4:
        return {split: {"inputs": Column(form=Pixels(), role="seen")} for split in SPLITS}
    told = description["columns"] if description["format"] >= 5 else {split: description["columns"] for split in SPLITS}
    return {split: {name: cast("Column", thaw(column, {}, TRUSTED)) for name, column in columns.items()} for split, columns in told.items()}


def _asked(columns: Mapping[str, Tensor], answers: Mapping[str, Tensor], name: str, like: Dataset, schema: Mapping[str, Column]) -> Dataset:
    """Return exported questions with their candidate answers.

    Raises:
        DataError: questions that no data set accepts, or answers that do not belong to them.
    """
    table, of = answers["table"], answers["of"]
    known = of.ndim == 2 and len(of) == len(columns["labels"]) and of.dtype == torch.int64 and bool(((of >= 0) & (of < len(table))).all())
    if not known or like.form.fault(table):
        raise DataError(f"{name}: {ANSWERS}.safetensors does not contain their candidate answers; export the record again")
    return dataclasses.replace(_clean(columns, name, like, schema, num_classes=of.shape[1]), ask=Candidates(table=table, of=of))


def _clean(columns: Mapping[str, Tensor], name: str, like: Dataset, schema: Mapping[str, Column], num_classes: int | None = None) -> Dataset:
    """Return exported rows that are not training rows as a data set.

    Args:
        columns: the rows.
        name: of the rows, for messages.
        like: the training rows.
        schema: form and role of the inputs and of further columns.
        num_classes: number of labels; None: that of the training rows.

    Raises:
        DataError: rows that no data set accepts, or that have another shape or type than the training rows.
    """
    rows = Dataset.of(columns["inputs"], columns["labels"], num_classes=num_classes or like.num_classes, form=like.form, name=name)
    for column, what in schema.items():
        rows = rows if column == "inputs" else rows.with_column(column, columns[column], what)
    if rows.inputs.shape[1:] != like.inputs.shape[1:] or rows.inputs.dtype != like.inputs.dtype:
        raise DataError(f"{name} are {rows.inputs.dtype} of shape {tuple(rows.inputs.shape[1:])}, unlike the training rows; export the record again")
    return rows
