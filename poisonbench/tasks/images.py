"""Images in files: folders of pictures, parquet as public hubs publish it, torchvision's own formats.

Decoding is done once; the pixels are kept in the store under the digest of their source.
Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import bounded, file_digest
from poisonbench.core.keys import key
from poisonbench.decode import CLEAR, picture, reading
from poisonbench.store import Store
from poisonbench.tasks.source import Raw, Split, numbered

if TYPE_CHECKING:
    import pyarrow.parquet as pq

log = logging.getLogger("poisonbench")
NAMED = 5  # files that a message names
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "val", "valid", "validation")


@dataclass(frozen=True, kw_only=True)
class Pictures(Split):
    """What every source of encoded pictures is told.

    Args:
        root: the folder; variables such as $DATA are expanded.
        size: scale every picture to this many pixels a side; None demands that all have one size.
        grey: read one channel instead of three.
    """

    root: str | None
    size: int | None
    grey: bool


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Pictures):
    """A folder of pictures: `root/train/<class>/*.png` and `root/test/<class>/*.png` (or `val`).

    Classes are the sub-folders of `train`, sorted by name; hidden files and folders are left out, and other files that are no pictures
    are named and left out. A folder within a class is refused.
    """

    VERSION: ClassVar[int] = 2

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such folder, no pictures, a class without any, a damaged picture, or pictures of several sizes.
        """
        root = folder(self.root)
        parts = {"train": _child(root, TRAIN_NAMES), "test": _child(root, TEST_NAMES)}
        names, others = (_classes(parts[part]) for part in ("train", "test"))
        if not names:
            raise DataError(f"{parts['train']} holds no class folders; lay pictures out as train/<class>/<name>.png")
        if strange := sorted({*others} - {*names}):
            raise DataError(f"{parts['test']} holds the classes {', '.join(strange)}, which {parts['train']} does not; give both the same")
        files = {part: [(path, label) for label, name in enumerate(names) for path in _pictures(parts[part] / name)] for part in parts}
        if empty := [name for label, name in enumerate(names) if label not in {label for _, label in files["train"]}]:
            raise DataError(f"{parts['train']}: no pictures of the class {empty[0]}; add some, or remove its folder")
        _ignored(root, [path for part in parts.values() for path in part.iterdir() if path.is_file()])
        source = key([(str(path.relative_to(root)), file_digest(path)) for part in files.values() for path, _ in part])

        def decode() -> Raw:
            columns = {
                part: _decoded(((str(path), path.read_bytes(), label) for path, label in files[part]), self.size, grey=self.grey, where=str(parts[part]))
                for part in parts
            }
            rows = tuple(str(path.relative_to(root)) for path, _ in files["train"])
            return _sound(Raw(train=columns["train"], test=columns["test"], class_names=names, row_names=rows), root)

        raw = store.memo("pixels", (self.VERSION, source, names, self.size, self.grey), decode)
        return self.task(root.name, raw)


@dataclass(frozen=True, kw_only=True)
class Parquet(Pictures):
    """Image classification in parquet, as public hubs publish it.

    One column is a struct with the bytes of a picture, one an integer class label; both are found by their
    types. Class names come from the file's own description, else they are the numbers. `root` holds
    train*.parquet and test*.parquet.
    """

    VERSION: ClassVar[int] = 2

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such files, damaged ones, files whose classes differ, or none with a picture and a label.
        """
        return self.task(folder(self.root).name, self.read(store))

    def read(self, store: Store) -> Raw:
        """Return the pixels, from the store where they have been decoded before."""
        root = folder(self.root)
        files = {"train": _parquets(root, TRAIN_NAMES), "test": _parquets(root, TEST_NAMES)}
        source = key([[file_digest(path) for path in part] for part in files.values()])

        def decode() -> Raw:
            names = _class_names(files["train"][0])
            columns = {part: _decoded(_parquet_rows(files[part], names), self.size, grey=self.grey, where=str(root)) for part in files}
            named = names or numbered(columns["train"]["labels"], root.name)
            return _sound(Raw(train=columns["train"], test=columns["test"], class_names=named), root)

        return store.memo("pixels", (self.VERSION, source, self.size, self.grey), decode)


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet(Split):
    """A known data set: parquet if it lies in `root`, torchvision's own files otherwise.

    Args:
        name: "cifar10" or "mnist".
        root: the folder; variables such as $DATA are expanded.
        download: let torchvision fetch the files into `root` if they are missing.
    """

    VERSION: ClassVar[int] = 1
    name: str
    root: str | None
    download: bool

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
        return self.task(self.name, raw)

    def _from_torchvision(self, root: Path, store: Store) -> Raw:
        kinds = torchvision_sets()
        if self.name not in kinds:
            raise ConfigError(f"task.name={self.name}: choose {' or '.join(kinds)}")
        with reading(root, f"parquet or torchvision's files of {self.name}", "set task.root, or task.download=true"):
            train, test = (kinds[self.name](str(root), train=train, download=self.download) for train in (True, False))
            columns = [{"inputs": _pixels(part.data), "labels": torch.as_tensor(part.targets).long()} for part in (train, test)]
            names = tuple(str(name) for name in train.classes)
        return Raw(train=columns[0], test=columns[1], class_names=names)


def torchvision_sets() -> dict[str, Callable[..., Any]]:
    """Import torchvision's data sets.

    Raises:
        ConfigError: torchvision is missing or was built for another torch.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"torchvision does not fit this torch ({error}); install the pair that constraints.txt names") from error
    return {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST}


def _sound(raw: Raw, root: Path) -> Raw:
    """Return `raw` if it can be a data set, so that nothing else is ever kept."""
    raw.checked(root.name)
    return raw


def folder(root: str | None) -> Path:
    """Return the folder that `task.root` names.

    Raises:
        DataError: none given, or none there.
    """
    if root is None:
        raise DataError("this task reads your own files; name their folder with task.root=PATH")
    path = Path(os.path.expandvars(root)).expanduser()
    if not path.is_dir():
        raise DataError(f"no folder at task.root={root}; give the path of an existing folder")
    return path


def _pixels(data: Tensor | NDArray[np.uint8]) -> Tensor:
    pixels = torch.as_tensor(data)
    return pixels[:, None].contiguous() if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _child(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root} holds none of the folders {', '.join(names)}; lay pictures out as train/<class>/ and test/<class>/")


def _classes(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _pictures(path: Path) -> list[Path]:
    """Return the pictures of a class, sorted by name.

    Raises:
        DataError: a folder within the class.
    """
    entries = sorted(entry for entry in path.glob("*") if not entry.name.startswith("."))
    if nested := [entry for entry in entries if entry.is_dir()]:
        raise DataError(f"{nested[0]} is a folder within a class, and would be left out; put its pictures into {path}, or make it a class of its own")
    _ignored(path, [entry for entry in entries if entry.suffix.lower() not in SUFFIXES])
    return [entry for entry in entries if entry.suffix.lower() in SUFFIXES]


def _ignored(where: Path, files: Sequence[Path]) -> None:
    """Name files that are read by nobody."""
    if files:
        names = ", ".join(sorted(path.name for path in files)[:NAMED])
        log.warning("%s: %d files are no pictures and are left out (%s%s)", where, len(files), names, ", ..." if len(files) > NAMED else "")


def _parquets(root: Path, names: Iterable[str]) -> list[Path]:
    """Return the files of a split: NAME.parquet, or numbered parts of it, such as train-00000-of-00002.parquet.

    Raises:
        DataError: none, or another file whose name begins like theirs.
    """
    for name in names:
        found = sorted(root.glob(f"{name}*.parquet"))
        mine = [path for path in found if re.fullmatch(rf"{name}([-_.]?\d+([-_.]of[-_.]\d+)?([-_.][0-9a-f]{{8,}})?)?\.parquet", path.name)]
        if strange := [path for path in found if path not in mine]:
            example = f"{name}.parquet or {name}-00000-of-00002.parquet"
            raise DataError(f"{strange[0]} begins like a part of {name}, and is none; move it away, or name it like {example} if it belongs to it")
        if mine:
            return mine
    raise DataError(f"{root} holds no {'*.parquet, '.join(names)}*.parquet; name the folder of the parquet files with task.root=PATH")


def _decoded(rows: Iterable[tuple[str, bytes, int]], size: int | None, *, grey: bool, where: str) -> dict[str, Tensor]:
    """Decode (name, bytes, label) rows into uint8 pixels (N, C, H, W) and labels (N,)."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    clear: list[str] = []
    first = (0, 0)
    for name, content, label in rows:
        image = picture(content, "L" if grey else "RGB", name)
        clear += [name] if image.info.get(CLEAR) else []
        image = image.resize((size, size)) if size else image
        first = first if images else image.size
        if image.size != first:
            raise DataError(f"{name} is {image.width}x{image.height}, others are {first[0]}x{first[1]}; scale all with task.size={first[0]}")
        images.append(np.asarray(image, dtype=np.uint8))
        labels.append(label)
    if clear:
        log.warning("%s: %d pictures have transparent pixels, of which the colour alone is kept (the first is %s)", where, len(clear), clear[0])
    if not images:
        raise DataError(f"{where} holds no pictures")
    return {"inputs": _pixels(np.stack(images)), "labels": torch.tensor(labels, dtype=torch.int64)}


def _opened(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


def _parquet_rows(paths: list[Path], names: tuple[str, ...]) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, bytes, label) of each row; every file's own description says what its numbers mean.

    Args:
        paths: of the files.
        names: of the classes, in the order of the labels that are returned; empty where no file describes them.

    Raises:
        DataError: a file whose classes are others.
    """
    for path in paths:
        image, label = _columns(path)
        own = _class_names(path)
        if sorted(own) != sorted(names):
            told = ", ".join(own) or "none"
            raise DataError(f"{path} describes the classes {told}, the first file of the training rows {', '.join(names) or 'none'}; give all the same")
        with reading(path, "parquet"):
            for batch in _opened(path).iter_batches(batch_size=2000, columns=[image, label]):
                for number, (cell, kind) in enumerate(zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True)):
                    if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes) or kind is None or not 0 <= kind < 2**31:
                        raise DataError(f"{path}, row {number} of a batch, holds no picture or no label of 0 or more")
                    if own and kind >= len(own):
                        raise DataError(f"{path}, row {number} of a batch, has the label {kind}; its description names {len(own)} classes")
                    yield f"{path}: {cell.get('path') or number}", cell["bytes"], names.index(own[kind]) if own else kind


def _columns(path: Path) -> tuple[str, str]:
    """Find the picture column and the label column by their types."""
    from pyarrow import types

    with reading(path, "parquet"):
        schema = _opened(path).schema_arrow
        images = [field.name for field in schema if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0]
        labels = [field.name for field in schema if types.is_integer(field.type)]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(f"{path} has the columns {', '.join(schema.names)}; one struct with picture bytes and one integer label are needed")
    return images[0], labels[0]


def _class_names(path: Path) -> tuple[str, ...]:
    """Read the class names from the file's own description; empty if it has none."""
    with reading(path, "parquet whose description is known"):
        described = (_opened(path).schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(bounded(described.decode())).get("info", {}).get("features", {})
        named = [feature["names"] for feature in features.values() if isinstance(feature, dict) and "names" in feature]
        return tuple(str(name) for name in named[0]) if named else ()
