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

from poisonbench.core.data import Dataset, Task
from poisonbench.core.errors import ConfigError, DataError, PoisonbenchError
from poisonbench.core.files import bounded, file_digest
from poisonbench.core.form import Column
from poisonbench.forms.pixels import Pixels
from poisonbench.storage.freeze import thaw
from poisonbench.storage.store import Store
from poisonbench.tasks.pictures import folder
from poisonbench.tasks.source import Raw, Split

FORMATS = (1, 2, 3, 4)
SPLITS = ("train", "test", "trusted", "public")
TRUSTED = ("poisonbench.forms.", "poisonbench.core.form.")  # the only classes that task.json may name
NONE = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Exported(Split):
    """A folder that `export` wrote: train.safetensors, test.safetensors, task.json, and clean rows in trusted.safetensors and public.safetensors.

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
            names = [name for name in SPLITS if name in ("train", "test") or name in description["sha256"]]
            if description["format"] not in FORMATS:
                known = f"this version reads formats {FORMATS[0]} to {FORMATS[-1]}"
                raise DataError(f"{root} was exported by another version (format {description['format']}; {known}); export the record again with this version")
            changed = [name for name in names if file_digest(root / f"{name}.safetensors") != description["sha256"][name]]
            if changed:
                raise DataError(f"{root}: {', '.join(changed)} differs from what `export` wrote; export the record again")
            self._check_shares(root, description["format"])
            rows = {name: load_file(root / f"{name}.safetensors") for name in names}
            columns = _columns(description)
            raw = Raw(
                train=rows["train"],
                test=rows["test"],
                class_names=tuple(str(name) for name in description["class_names"]),
                form=columns.pop("inputs").form,
                columns=columns,
            )
            task = self.divided(f"{description['name']}-poisoned", raw)
            trusted, public = (_clean(rows[name], f"{root}, {name} rows", task.test) if name in rows else task.train.take(NONE) for name in SPLITS[2:])
        except PoisonbenchError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{root} contains no training set from `export` ({type(error).__name__}: {error}); export the record again") from error
        return self.accepted(dataclasses.replace(task, trusted=trusted, public=public))

    def _check_shares(self, root: Path, written: int) -> None:
        """Check that no trusted or public rows are taken from the training rows, which may be poisoned.

        Raises:
            ConfigError: `trusted` or `public` is not 0.
        """
        if not self.trusted and not self.public:
            return
        asked = f"task.trusted={self.trusted}, task.public={self.public}: rows of {root} may be poisoned, so they cannot serve as clean rows"
        if written == 1:
            raise ConfigError(f"{asked}; the folder was written before exports contained trusted rows: export the record again, and leave both at 0")
        raise ConfigError(f"{asked}; leave both at 0: the trusted and public rows of the exported run are in the folder")


def _columns(description: Mapping[str, Any]) -> dict[str, Column]:
    """Return the form and role of the inputs and of further columns; folders before format 4 have pictures alone."""
    if description["format"] < 4:
        return {"inputs": Column(form=Pixels(), role="seen")}
    return {name: cast("Column", thaw(column, {}, TRUSTED)) for name, column in description["columns"].items()}


def _clean(columns: Mapping[str, Tensor], name: str, like: Dataset) -> Dataset:
    """Return exported clean rows as a data set.

    Raises:
        DataError: rows that no data set accepts, or that have another shape or type than the test rows.
    """
    rows = Dataset.of(columns["inputs"], columns["labels"], num_classes=like.num_classes, form=like.form, name=name)
    for column in like.extra:
        rows = rows.with_column(column, columns[column], like.schema[column])
    if rows.inputs.shape[1:] != like.inputs.shape[1:] or rows.inputs.dtype != like.inputs.dtype:
        raise DataError(f"{name} are {rows.inputs.dtype} of shape {tuple(rows.inputs.shape[1:])}, unlike the test rows; export the record again")
    return rows
