"""Images in files: folders of pictures, and data sets that torchvision can read.

Pictures are decoded once; the store keeps their pixels under the digest of the files.
Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.files import file_digest
from poisonbench.core.keys import key
from poisonbench.decoders import reading
from poisonbench.storage.store import Store
from poisonbench.tasks.listing import Entry, Listing, by_folders, located
from poisonbench.tasks.metadata import Columns, by_table, described, naming, tables
from poisonbench.tasks.parquet import Parquet
from poisonbench.tasks.pictures import STORED, Encoded, Pictures, as_pixels, folder, quiet
from poisonbench.tasks.records import without
from poisonbench.tasks.source import Put, Raw, Split, copied
from poisonbench.tasks.writing import Copy, check_same


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Pictures):
    """A folder of pictures whose classes are given by subfolders or by a table.

    Without a table, a class is a folder that contains pictures. Its name is its path below `train` and `test` (or `val`) if these folders
    exist, else below `root`. A table lists files and classes, and optionally their splits; `metadata.csv` and `metadata.jsonl` beside the
    pictures are found automatically. Classes are sorted by value if all their names are numbers, else alphabetically. Hidden files are
    ignored; a warning names other files that are not read.

    Args:
        table: CSV, TSV or JSON lines of files and classes; its path starts from the working directory or from `root`.
        test_list: a file that names the test pictures, one per line; all others are training rows.
        class_depth: how many folders of a path name the class: with 1, dog/poodle and dog/terrier are one class; None takes all.
    """

    VERSION: ClassVar[int] = 3
    table: str | None = None
    test_list: str | None = None
    class_depth: int | None = None

    def __post_init__(self) -> None:
        """Check the depth."""
        super().__post_init__()
        if self.class_depth is not None and self.class_depth < 1:
            raise ConfigError(f"task.class_depth={self.class_depth}: give 1 or more folders, or null for the whole path")

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such folder, no pictures, a class without pictures, damaged pictures, or pictures of several sizes.
            ConfigError: a setting for tables without a table, or a setting for folders with one.
        """
        root = folder(self.root)
        listing = self.listing(root)
        names = listing.classes(root)
        source = key([[(str(path.relative_to(root)), label, file_digest(path)) for path, label in part] for part in (listing.train, listing.test)])

        def encoded(entries: Sequence[Entry]) -> Iterator[Encoded]:
            numbers = {name: number for number, name in enumerate(names)}
            return (Encoded(str(path), path.read_bytes(), numbers[label], str(path.relative_to(root))) for path, label in entries)

        def decode() -> Raw:
            return self.raw(encoded(listing.train), encoded(listing.test), names, root)

        return self.task(root.resolve().name, store.memo("pixels", (self.VERSION, STORED, source, names, self.size, self.grey), decode))

    def listing(self, root: Path) -> Listing:
        """Return which pictures are read, with their classes and splits.

        Raises:
            DataError: a layout that gives a picture no class, or two.
            ConfigError: a setting that would have no effect.
        """
        files = () if self.unlabelled and self.table is None else tables(root, self.table)
        if self.unlabelled and self.class_depth is not None:
            raise ConfigError(f"task.class_depth={self.class_depth} has no effect, because task.unlabelled=true reads no classes; leave one of them out")
        if useless := [name for name in (("class_depth",) if files else ("image", "label")) if getattr(self, name) is not None]:
            why = f"because {files[0].name} names the classes" if files else "because there is no table; name one with task.table=FILE"
            raise ConfigError(f"task.{useless[0]}={getattr(self, useless[0])} has no effect, {why}; or leave task.{useless[0]} out")
        found = by_table(root, files, self._columns) if files else by_folders(root, 0 if self.unlabelled else self.class_depth)
        return found if self.test_list is None else found.held_out(root, self.test_list)

    @property
    def _columns(self) -> Columns:
        return Columns(self.image, self.label, self.unlabelled, agree=self.table is None)

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the folder without some pictures, and its tables without their rows; see `Split.kept`.

        Raises:
            DataError: a copy would read back as other rows, because a table has absolute paths.
        """
        root = folder(self.root)
        listing = self.listing(root)
        gone = {entry.path for number, entry in enumerate(listing.train) if number in dropped}
        left = Listing(train=tuple(entry for entry in listing.train if entry.path not in gone), test=listing.test)
        table = None if self.table is None else located(root, self.table, "task.table")
        test_list = None if self.test_list is None else located(root, self.test_list, "task.test_list")
        lists = {path: naming(root, path, self.image, gone) for path in (described(root) if table is None else [table])}
        copy = Copy(root, [path for path in (table, test_list) if path], out, put)
        for path in (*(entry.path for entry in (*left.train, *left.test)), *([test_list] if test_list else [])):
            copy.copy(path)
        for path, lines in lists.items():
            copy.place(path).write_bytes(without(path, lines))
        copy.copy_others([*gone, *(entry.path for entry in (*left.train, *left.test)), *lists, *([test_list] if test_list else [])])
        place = copy.place(root)
        moved = [None if path is None else str(copy.place(path)) for path in (table, test_list)]
        with quiet():
            copied_one = dataclasses.replace(self, root=str(place), table=moved[0], test_list=moved[1])
            check_same(_relative(root, left), lambda: _relative(place, copied_one.listing(place)), root)
        return place


def _relative(root: Path, listing: Listing) -> list[tuple[str, str, str]]:
    return [(split, os.path.relpath(path, root), label) for split, part in (("train", listing.train), ("test", listing.test)) for path, label in part]


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet(Split):
    """A well-known data set: read from parquet files if `root` contains any, else from torchvision's files.

    Args:
        name: "cifar10" or "mnist".
        root: the folder; variables such as $DATA are expanded.
        download: let torchvision download the files into `root` if they are missing.
        classes: keep only the rows with these labels, which are numbered from 0 in the order given, such as [1, 7] for two digits; None keeps all.
    """

    VERSION: ClassVar[int] = 1
    name: str
    root: str | None
    download: bool
    classes: tuple[int, ...] | None = field(default=None, metadata={"spec": "changed"})

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: nothing readable in `root`.
        """
        if self.root is not None and self.download:
            Path(os.path.expandvars(self.root)).expanduser().mkdir(parents=True, exist_ok=True)
        root = folder(self.root)
        if any(root.glob("*.parquet")):
            raw = Parquet(root=str(root), size=None, grey=self.name == "mnist", limit=None, trusted=0.0, public=0.0, split_seed=0).read(store)
        else:
            raw = self._from_torchvision(root, store)
        return self.task(self.name, raw.only(self.classes))

    def _from_torchvision(self, root: Path, store: Store) -> Raw:
        kinds = torchvision_sets()
        if self.name not in kinds:
            raise ConfigError(f"task.name={self.name}: choose {' or '.join(kinds)}")
        with reading(root, f"parquet or torchvision's files of {self.name}", "set task.root, or task.download=true"):
            train, test = (kinds[self.name](str(root), train=train, download=self.download) for train in (True, False))
            columns = [{"inputs": as_pixels(part.data), "labels": torch.as_tensor(part.targets).long()} for part in (train, test)]
            names = tuple(str(name) for name in train.classes)
        return Raw(train=columns[0], test=columns[1], class_names=names)


def torchvision_sets() -> dict[str, Callable[..., Any]]:
    """Import torchvision's data sets.

    Raises:
        ConfigError: torchvision is missing, or was built for another version of torch.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"torchvision does not work with this torch ({error}); install the versions that constraints.txt names, or constraints-cpu.txt for a CPU build"
        ) from error
    return {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST}
