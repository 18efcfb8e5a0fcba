"""Pictures in parquet files, in the layouts of public hubs.

Shape letters: N rows, K classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from poisonbench.core.data import Task
from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded, file_digest
from poisonbench.core.keys import key
from poisonbench.decoders import reading
from poisonbench.storage.store import Store
from poisonbench.tasks.listing import SPLIT
from poisonbench.tasks.pictures import NAMED, STORED, TEST_NAMES, TRAIN_NAMES, Encoded, Pictures, folder, ignored, in_order
from poisonbench.tasks.source import NO_LABELS, UNLABELLED, Put, Raw, copied

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Class: TypeAlias = "int | str"  # the name of a class, or its number where it has no name
LABELS = ("label", "labels", "class", "target", "category")
ROW_NAMES = ("id", "image_id", "file_name", "filename", "__key__")
NUMBER = r"\d+([-_.]of[-_.]\d+)?([-_.][0-9a-f]{8,})?"


@dataclass(frozen=True, kw_only=True)
class Parquet(Pictures):
    """Image classification in parquet files, in the layouts of public hubs.

    `root` contains train*.parquet and test*.parquet (or val), or one folder below it does, as in data/train-00000-of-00002.parquet and
    default/train/0000.parquet. A single file with another name contains the training rows. Without test files there are no test rows.
    One column has the pictures, as bytes or as a struct with their bytes. One column has the classes, as text, booleans or numbers; the
    metadata of the file may give the numbers names. If several columns are possible, `image` and `label` choose. Rows are named by the
    column `id`, else by the path that is stored with the bytes.

    Args:
        id: column with the names of rows; None looks for the usual names of such a column.
    """

    VERSION: ClassVar[int] = 3
    id: str | None = None

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such files, damaged files, files whose classes differ, or files without pictures or labels.
        """
        root = folder(self.root)
        raw = self.read(store)
        ignored(root, [path for path in root.rglob("*") if path.is_file() and path.suffix != ".parquet"], "no parquet")
        return self.task(root.resolve().name, raw)

    def read(self, store: Store) -> Raw:
        """Return the pixels, from the store if they were decoded before."""
        root = folder(self.root)
        train, test = parts(root)
        self._check_splits(train, test)
        source = key([[file_digest(path) for path in part] for part in (train, test)])

        def decode() -> Raw:
            names = self._classes(train)
            return self.raw(self._rows(train, names), self._rows(test, names), [str(name) for name in names], root)

        read = (self.VERSION, STORED, source, self.size, self.grey, self.image, self.label, self.id, *([UNLABELLED] if self.unlabelled else []))
        return store.memo("pixels", read, decode)

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the files without some rows; see `Split.kept`."""
        from poisonbench.tasks.writing import write_folder

        return write_folder(folder(self.root), dropped, out, put)

    def _check_splits(self, train: Sequence[Path], test: Sequence[Path]) -> None:
        """Check that no training file contains several splits: its test rows would be trained on."""
        for path in train if not test else ():
            with reading(path, "parquet"):
                found = [name for name in opened(path).schema_arrow.names if name.lower() in SPLIT and name != self.label]
            if found:
                raise DataError(f"{path} has a column {found[0]}; write each split into its own file, train.parquet and test.parquet")

    def _classes(self, paths: Sequence[Path]) -> tuple[Class, ...]:
        """Return the classes in the order of their numbers: from the metadata of the first file, else from the training rows."""
        columns = [self._columns(path) for path in paths]
        if self.unlabelled:
            return (UNLABELLED,)
        if columns[0].names:
            return columns[0].names
        found = [value for path, chosen in zip(paths, columns, strict=True) for value in _values(path, chosen)]
        texts = [value for value in found if isinstance(value, str)]
        if texts:
            return in_order(texts)
        return tuple(sorted({value for value in found if isinstance(value, int)}))

    def _rows(self, paths: Sequence[Path], names: tuple[Class, ...]) -> Iterator[Encoded]:
        """Yield the rows of some files; the metadata of each file says which classes its numbers are.

        Raises:
            DataError: a file with other classes, or a row without a picture or a class.
        """
        numbers = {name: number for number, name in enumerate(names)}
        for path in paths:
            columns = self._columns(path)
            if columns.names and sorted(columns.names) != sorted(map(str, names)):
                differ = f"{path} has the classes {_some(columns.names)}, the first training file has {_some(names)}"
                raise DataError(f"{differ}; give all files the same classes")
            for number, (picture, value, name) in enumerate(cells(path, columns)):
                where = f"{path}, row {number}"
                if picture is None or value is None or (isinstance(value, int) and not 0 <= value < 2**31):
                    raise DataError(f"{where}: no picture bytes, or no label of 0 or more; correct or remove the row")
                kind = _meaning(value, columns.names, where)
                if kind not in numbers:
                    raise DataError(f"{where}: the label is {kind}; the training rows have the classes {_some(names)}; give all files the same classes")
                yield Encoded(f"{path}: {name or number}", picture, numbers[kind], name)

    def _columns(self, path: Path) -> Columns:
        """Find the columns with pictures, classes and names of rows.

        Raises:
            DataError: no possible column, or several and none is chosen.
        """
        from pyarrow import types

        with reading(path, "parquet with known metadata"):
            schema = opened(path).schema_arrow
            known = described(schema)
            image_like = [field.name for field in schema if holds_bytes(field.type)]
            label_like = [field.name for field in schema if types.is_integer(field.type) or types.is_boolean(field.type) or is_text(field.type)]
        image = chosen(path, schema.names, self.image, [image_like], "task.image", "one struct with picture bytes, or bytes")
        named = self.id if self.id is not None else next((name for name in ROW_NAMES if name in schema.names), None)
        rest = [name for name in label_like if name != named]
        usual = [name for name in rest if name.lower() in LABELS]
        likely = [name for name in rest if name in known or name in usual]
        label = None if self.unlabelled else self._label(path, schema.names, [likely, rest])
        if named is not None and named not in schema.names:
            raise DataError(f"task.id={named}: {path} has the columns {', '.join(schema.names)}; name one of them")
        return Columns(image, label, named, known.get(label, ()) if label is not None else ())

    def _label(self, path: Path, names: Sequence[str], choices: Sequence[Sequence[str]]) -> str:
        try:
            return chosen(path, names, self.label, choices, "task.label", "one column of classes")
        except DataError as error:
            raise DataError(f"{error}{'' if self.label else f', {NO_LABELS}'}") from error


class Columns(NamedTuple):
    """Which columns of a file are read.

    Args:
        image: pictures.
        label: classes; None if the rows are read without labels.
        name: names of rows, or None.
        names: of the classes, in the order of their numbers; empty if the metadata gives none.
    """

    image: str
    label: str | None
    name: str | None
    names: tuple[str, ...]


def parts(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the training files and the test files; there may be no test files.

    Raises:
        DataError: no training files, files in several folders, or a file whose name only begins like theirs.
    """
    found = [path for path in sorted(root.rglob("*.parquet")) if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    known = {path: split for path in found for split in (*TRAIN_NAMES, *TEST_NAMES) if _is_part(path, split)}
    homes = sorted({_home(path, split) for path, split in known.items()})
    if len(homes) > 1 and root not in homes:
        raise DataError(f"{root} contains several sets of parquet files, in {', '.join(map(str, homes[:NAMED]))}; set task.root to one of them")
    home = root if root in homes or not homes else homes[0]
    mine = {path: split for path, split in known.items() if _home(path, split) == home}
    train, test = (next((name for name in names if name in mine.values()), None) for names in (TRAIN_NAMES, TEST_NAMES))
    for path in found:
        for split in filter(None, (train, test)):
            if path.parent == home and path.name.startswith(split) and mine.get(path) != split:
                example = f"{split}.parquet or {split}-00000-of-00002.parquet"
                raise DataError(f"{path}: the name begins with {split} but is not that of a part; rename it like {example} if it is one, else move it away")
    chosen = [[path for path in found if split is not None and mine.get(path) == split] for split in (train, test)]
    if train is None and test is None and len(found) == 1:
        chosen = [found, []]
    if not chosen[0]:
        raise DataError(f"{root} contains no {'*.parquet or '.join(TRAIN_NAMES)}*.parquet; set task.root=PATH, or use task=image_folder")
    for part in chosen:
        _check_complete(part)
    ignored(root, [path for path in found if path not in chosen[0] + chosen[1]], "of neither split")
    return chosen[0], chosen[1]


def _is_part(path: Path, split: str) -> bool:
    """Return whether a file belongs to SPLIT: SPLIT.parquet, a numbered part such as SPLIT-00000-of-00002.parquet, or SPLIT/0000.parquet."""
    whole = rf"{split}([-_.]?{NUMBER})?\.parquet"
    return bool(re.fullmatch(whole, path.name)) or (path.parent.name == split and bool(re.fullmatch(rf"{NUMBER}\.parquet", path.name)))


def _check_complete(paths: Sequence[Path]) -> None:
    """Check that no part is missing, as after an interrupted download."""
    numbered = [found for path in paths if (found := re.search(r"of[-_.](\d+)", path.name))]
    if numbered and len(paths) < (whole := max(int(found[1]) for found in numbered)):
        raise DataError(f"{paths[0].parent} contains {len(paths)} of {whole} files, by the name of {paths[0].name}; download the others")


def _home(path: Path, split: str) -> Path:
    """Return the folder that contains a set of files."""
    return path.parent.parent if path.parent.name == split else path.parent


def opened(path: Path) -> pq.ParquetFile:
    """Return an open Parquet file."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


def cells(path: Path, columns: Columns) -> Iterator[tuple[bytes | None, Class | None, str]]:
    """Yield the picture, the class and the name of each row; None for what a row does not have."""
    wanted = [name for name in (columns.image, columns.label, columns.name) if name is not None]
    with reading(path, "parquet"):
        for batch in opened(path).iter_batches(batch_size=2000, columns=wanted):
            names = batch[columns.name].to_pylist() if columns.name else [None] * len(batch)
            labels = [UNLABELLED] * len(batch) if columns.label is None else batch[columns.label].to_pylist()
            for cell, value, name in zip(batch[columns.image].to_pylist(), labels, names, strict=True):
                content = cell.get("bytes") if isinstance(cell, dict) else cell
                stored = cell.get("path") if name is None and isinstance(cell, dict) else name
                yield content if isinstance(content, bytes) else None, _class(value), "" if stored is None else str(stored)


def _values(path: Path, columns: Columns) -> Iterator[Class]:
    """Yield the classes of all rows that have one."""
    with reading(path, "parquet"):
        for batch in opened(path).iter_batches(columns=[columns.label]):
            yield from (value for value in map(_class, batch[0].to_pylist()) if value is not None)


def _class(value: object) -> Class | None:
    """Return numbers unchanged, and text and booleans as text."""
    return value if value is None or (isinstance(value, int) and not isinstance(value, bool)) else str(value).strip() or None


def _meaning(value: Class, names: Sequence[str], where: str) -> Class:
    if not names or isinstance(value, str):
        return value
    if value >= len(names):
        raise DataError(f"{where}: the label is {value}, but the metadata of the file names only {len(names)} classes; correct the row or the metadata")
    return names[value]


def described(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes in each column, from the metadata of the file."""
    features = json.loads(bounded((schema.metadata or {}).get(b"huggingface", b"{}").decode())).get("info", {}).get("features", {})
    return {name: tuple(map(str, each["names"])) for name, each in features.items() if isinstance(each, dict) and "names" in each and name in schema.names}


def is_single(kind: pa.DataType) -> bool:
    """Return whether a column has one value a row, and no list, struct or bytes."""
    from pyarrow import types

    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column has bytes, or structs with bytes."""
    from pyarrow import types

    return bool(types.is_struct(kind) and kind.get_field_index("bytes") >= 0) or bool(types.is_binary(kind) or types.is_large_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column has texts."""
    from pyarrow import types

    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_dictionary))


def chosen(path: Path, names: Sequence[str], asked: str | None, choices: Sequence[Sequence[str]], word: str, what: str) -> str:  # noqa: PLR0913
    """Return the column `asked`, or else the only column in the first of `choices` that is not empty.

    Raises:
        DataError: no such column, or no column or several columns that are possible.
    """
    if asked is not None:
        if asked not in names:
            raise DataError(f"{word}={asked}: {path} has the columns {', '.join(names)}; name one of them")
        return asked
    could = next((choice for choice in choices if choice), [])
    if len(could) != 1:
        advice = f"; set {word} to {' or '.join(could)}" if could else ""
        raise DataError(f"{path} has the columns {', '.join(names)}; {what} is needed{advice}")
    return could[0]


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:NAMED])) + (", ..." if len(names) > NAMED else "") if names else "none"
