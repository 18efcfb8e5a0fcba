"""Write the rows of a source that are kept, in the source's own format: all else stays as it was, byte for byte where the format allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from poisonbench.core.errors import DataError
from poisonbench.decoders import reading
from poisonbench.tasks.parquet import parts
from poisonbench.tasks.pictures import is_hidden
from poisonbench.tasks.records import without
from poisonbench.tasks.sheet import Sheet
from poisonbench.tasks.source import Put, copied

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def linked(path: Path, place: Path) -> None:
    """Put a link in the place of a copy, for a rehearsal that copies nothing.

    Raises:
        DataError: a file that could not be copied.
    """
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read; change its permissions")
    place.symlink_to(path)


class Copy:
    """Where the files of a source are copied to: their places relative to each other stay as they are.

    Args:
        root: the folder or the file that the task names.
        others: further files that the task names.
        out: an empty folder.
        put: how a file that stays as it is gets to its new path.
    """

    def __init__(self, root: Path, others: Iterable[Path], out: Path, put: Put = copied) -> None:
        self.root, self.out, self._put = absolute(root), out, put
        self._base = Path(os.path.commonpath([self.root.parent, *(absolute(path).parent for path in others)]))

    def place(self, path: Path) -> Path:
        """Return the new path of a file, whose folder is made."""
        place = self.out / absolute(path).relative_to(self._base)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def copy(self, path: Path) -> None:
        """Copy a file, byte for byte."""
        self._put(absolute(path), self.place(path))

    def copy_others(self, known: Collection[Path]) -> None:
        """Copy every file below the root that is not in `known`; hidden files and links are left out."""
        left = {absolute(path) for path in known}
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and not path.is_symlink() and path not in left and not is_hidden(path.relative_to(self.root)):
                self.copy(path)


def absolute(path: Path) -> Path:
    """Return a path from the root of the file system; links are not followed, because a picture may be one."""
    return Path(os.path.abspath(path))


def named(root: str | None, folder: Path | None = None) -> Path:
    """Return the path of a file or folder that a setting names, from the working directory or from `folder`."""
    assert root is not None, "the task was loaded from it"
    path = Path(os.path.expandvars(root)).expanduser()
    return path if folder is None or path.exists() else folder / path


class Table(NamedTuple):
    """A table of the user.

    Args:
        sheet: the training rows.
        root: the file, or a folder of Parquet files.
        test_file: the file of test rows.
    """

    sheet: Sheet
    root: str | None
    test_file: str | None


def write_table(table: Table, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
    """Write a table without some rows, and its test file as it is; return what `task.root` has to name to read it.

    Args:
        table: the training rows, and the files.
        dropped: numbers of the rows to leave out.
        out: an empty folder.
        put: see `Copy`.
    """
    sheet, path = table.sheet, named(table.root)
    tests = [] if table.test_file is None else [named(table.test_file)]
    copy = Copy(path, tests, out, put)
    if path.is_dir():
        _write_parts(copy, dropped)
    elif sheet.unit == "row":
        write_parquet([path], dropped, copy)
    elif not dropped:
        copy.copy(path)
    else:
        copy.place(path).write_bytes(without(path, {sheet.lines[row] for row in dropped}))
    for test in tests:
        copy.copy(test)
    return copy.place(path)


def write_folder(root: Path, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
    """Write a folder of Parquet files without some training rows; return its place."""
    copy = Copy(root, (), out, put)
    _write_parts(copy, dropped)
    return copy.place(root)


def _write_parts(copy: Copy, dropped: Collection[int]) -> None:
    train, _ = parts(copy.root)
    write_parquet(train, dropped, copy)
    copy.copy_others(train)


def write_parquet(files: Sequence[Path], dropped: Collection[int], copy: Copy) -> None:
    """Write Parquet files without some rows, which are counted over all files from 0: same names, schema, metadata, compression and row groups.

    A file that loses no row is copied.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = 0
    for file in files:
        with pq.ParquetFile(file) as parquet:
            groups = parquet.metadata
            if not any(start <= row < start + groups.num_rows for row in dropped):
                copy.copy(file)
                start += groups.num_rows
                continue
            with pq.ParquetWriter(copy.place(file), parquet.schema_arrow, compression=_codecs(groups)) as writer:
                for group in range(groups.num_row_groups):
                    with reading(file, "parquet"):  # and not the writing, whose error may be a full disk
                        table = parquet.read_row_group(group)
                    kept = table.filter(pa.array([start + row not in dropped for row in range(len(table))], pa.bool_()))
                    start += len(table)
                    if len(kept):
                        writer.write_table(kept, row_group_size=len(kept))


def _codecs(groups: pq.FileMetaData) -> dict[str, str] | str:
    """Return how each column is compressed; a file without rows does not say it."""
    chunks = [groups.row_group(0).column(place) for place in range(groups.num_columns)] if groups.num_row_groups else []
    return {chunk.path_in_schema: chunk.compression.replace("UNCOMPRESSED", "NONE") for chunk in chunks} or "snappy"


def check_same(old: Sequence[object], read: Callable[[], Sequence[object]], root: Path) -> None:
    """Check that what was written reads back as what was kept.

    Args:
        old: what was kept.
        read: reads it back.
        root: the source, for the message.

    Raises:
        DataError: it does not.
    """
    try:
        same = list(old) == list(read())
    except DataError:  # it names a file of the copy, which is gone when the user reads the message
        same = False
    if not same:
        raise DataError(f"{root} cannot be copied so that the copy reads back the same rows, as when a table has absolute paths; make its paths relative")
