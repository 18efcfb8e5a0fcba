"""A training set that `export` wrote: poisoned rows as they are, without a word on which."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file

from poisonbench.core.data import Task
from poisonbench.core.errors import DataError
from poisonbench.core.files import file_digest
from poisonbench.store import Store
from poisonbench.tasks.images import folder
from poisonbench.tasks.source import Raw, Split


@dataclass(frozen=True, kw_only=True)
class Poisoned(Split):
    """The folder of an `export`: train.safetensors, test.safetensors, task.json. The mask beside them is not read.

    Args:
        root: the folder; variables such as $DATA are expanded.
    """

    VERSION: ClassVar[int] = 1
    root: str | None

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such folder, or files that are not what was written.
        """
        root = folder(self.root)
        try:
            told = json.loads((root / "task.json").read_text(encoding="utf-8"))
            changed = [name for name in ("train", "test") if file_digest(root / f"{name}.safetensors") != told["sha256"][name]]
            if changed or told["format"] != 1:
                raise DataError(f"{root}: {', '.join(changed) or 'task.json'} is not what `export` wrote; export the record again")
            train, test = (load_file(root / f"{name}.safetensors") for name in ("train", "test"))
            raw = Raw(train=train, test=test, class_names=tuple(str(name) for name in told["class_names"]))
            return self.task(f"{told['name']}-poisoned", raw)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{root} holds no training set that `export` wrote ({type(error).__name__}: {error})") from error
