"""List pictures by tables of files and classes: which columns are read, and what a table may not say. Nothing is decoded here."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from poisonbench.core.errors import DataError
from poisonbench.tasks.listing import LABEL, SPLIT, SPLITS, SUFFIXES, Entry, Listing, located
from poisonbench.tasks.pictures import TEST_NAMES, TRAIN_NAMES, ignored
from poisonbench.tasks.records import is_json, objects, records, text_of
from poisonbench.tasks.source import UNLABELLED

TABLES = ("metadata.csv", "metadata.jsonl")  # found automatically; public hubs use these names
IMAGE = ("file_name", "filename", "file", "image", "image_path", "path", "filepath", "img")


class Columns(NamedTuple):
    """How tables are read.

    Args:
        image: the column with the paths of pictures; None finds it.
        label: the column with the classes; None finds it.
        unlabelled: the pictures have no classes, and no column of them is read.
        agree: folders that are named like classes have to agree with the table.
    """

    image: str | None
    label: str | None
    unlabelled: bool = False
    agree: bool = False


class Line(NamedTuple):
    """A row of a table of pictures: its place for messages, its split, and its picture and class."""

    place: str
    split: str
    entry: Entry


def by_table(root: Path, files: Sequence[Path], columns: Columns) -> Listing:
    """List the pictures in tables with their classes, and with their splits if a column or the folders give them.

    Args:
        root: the folder of all pictures.
        files: CSV, TSV or JSON lines; paths of pictures start from the table's folder, or from `root`.
        columns: which columns are read.

    Raises:
        DataError: a table that cannot be read, rows whose picture does not exist, a picture that is listed twice, or a column that cannot be found.
    """
    lines = [line for file in files for line in _named(root, file, columns)]
    first = dict[Path, Line]()
    for line in lines:
        if (other := first.setdefault(line.entry.path, line)) is not line:
            raise DataError(f"{line.place}: {line.entry.path.relative_to(root)} {_twice(other, line)}")
    if columns.agree:
        _check_folders(root, lines)
    parts = defaultdict[str, list[Entry]](list)
    for line in lines:
        parts[line.split].append(line.entry)
    train, test = (next((name for name in names if name in parts), None) for names in (TRAIN_NAMES, TEST_NAMES))
    for split in sorted(parts.keys() - {train, test}):
        ignored(root, [path for path, _ in parts[split]], f"of the split {split}")
    known = {*first} | {root / os.path.relpath(file, root) for file in files}
    ignored(root, [path for path in root.rglob("*") if path.is_file() and path not in known], "listed by no table")
    return Listing(train=tuple(parts[train] if train else ()), test=tuple(parts[test] if test else ()))


def _twice(first: Line, again: Line) -> str:
    """Return what is wrong with a picture that two rows list."""
    if first.split != again.split:
        return f"is listed in the splits {first.split} and {again.split}; remove one of the rows"
    if first.entry.label != again.entry.label:
        return f"is listed with the labels {first.entry.label} and {again.entry.label}; keep the row with the right one"
    return "is listed twice; remove one of the rows"


def _check_folders(root: Path, lines: Sequence[Line]) -> None:
    """Check that no picture is in a folder with the name of another class than its own.

    Raises:
        DataError: such a picture, and how to say which of both is right.
    """
    kinds = {line.entry.label for line in lines}
    for place, _, (path, label) in lines:
        folders = {part for part in path.relative_to(root).parts[:-1] if part in kinds}
        if folders and label not in folders:
            fault = f"{place}: {path.relative_to(root)} has the class {label}, but its folder is named like the class {min(folders)}"
            raise DataError(f"{fault}; correct one of them, or name the table with task.table=FILE to read the classes from it alone")


def _named(root: Path, file: Path, asked: Columns) -> Iterator[Line]:
    """Yield the rows of a table."""
    rows = _rows(file)
    columns = list(rows[0].cells) if rows else []
    pictures = _column(file, columns, asked.image, IMAGE, "task.image")
    kinds = None if asked.unlabelled else _column(file, columns, asked.label, LABEL, "task.label")
    splits = next((name for name in columns if name.lower() in SPLIT), None)
    for number, (_, row) in enumerate(rows, start=1):
        place = f"{file}, row {number}"
        path = _picture(root, file, row.get(pictures, ""))
        kind = UNLABELLED if kinds is None else row.get(kinds, "").strip()
        if path is None or not kind:
            raise DataError(f"{place}: {_lacking(root, file, row.get(pictures, '')) if path is None else 'no class; correct or remove the row'}")
        yield Line(place, _split(place, path.relative_to(root), row.get(splits, "") if splits else ""), Entry(path, kind))


def _lacking(root: Path, file: Path, name: str) -> str:
    """Return why a row of a table has no picture."""
    if name.strip() and any((home / name.strip()).is_file() for home in (file.parent, root)):
        return f"the picture {name!r} lies outside {root}; move it there, or set task.root to a folder that contains all pictures"
    return f"no picture {name!r}; correct or remove the row"


def tables(root: Path, name: str | None) -> tuple[Path, ...]:
    """Return the named table, or else each `metadata.csv` and `metadata.jsonl` beside the pictures that has a class column.

    Raises:
        DataError: no such file.
    """
    if name is not None:
        return (located(root, name, "task.table"),)
    return tuple(file for file in described(root) if any(column.lower() in LABEL for row in _rows(file)[:1] for column in row.cells))


def described(root: Path) -> list[Path]:
    """Return each `metadata.csv` and `metadata.jsonl` beside the pictures, with or without classes."""
    homes = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name.lower() in SPLITS)]
    return [home / table for home in homes for table in TABLES if (home / table).is_file()]


def naming(root: Path, file: Path, image: str | None, pictures: Collection[Path]) -> set[int]:
    """Return the lines of a table whose rows name one of these pictures."""
    rows = _rows(file)
    columns = [name for name in (rows[0].cells if rows else ()) if (name == image if image is not None else name.lower() in IMAGE)]
    return {line for line, row in rows for column in columns if _picture(root, file, row.get(column, "")) in pictures}


class Row(NamedTuple):
    """A row of a table: the line of the file that it starts in, and its cells by the names of their columns."""

    line: int
    cells: Mapping[str, str]


def _rows(file: Path) -> list[Row]:
    """Read the rows of a table; a table of files and classes without a header gets the header `file,label`."""
    if is_json(file):
        return [Row(line, {name: "" if value is None else str(value) for name, value in row.items()}) for line, row in objects(file)]
    lines = [record for record in records(file, text_of(file)) if record.cells]
    header, rows = ([name.strip() for name in lines[0].cells], lines[1:]) if lines else ([], [])
    if any(Path(name).suffix.lower() in SUFFIXES for name in header):
        header, rows = ["file", "label", "split"][: len(header)], lines
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f"{file} has two columns {f'named {twice[0]}' if twice[0] else 'without a name'}; rename one of them")
    if wrong := next((record for record in rows if len(record.cells) != len(header)), None):
        fault = f"line {wrong.line} has {len(wrong.cells)} cells, and there are {len(header)} columns"
        raise DataError(f"{file} cannot be read as a table ({fault}); write CSV, TSV or JSON lines of file and class")
    return [Row(record.line, dict(zip(header, record.cells, strict=True))) for record in rows]


def _column(file: Path, columns: Sequence[str], asked: str | None, usual: Sequence[str], word: str) -> str:
    if asked is not None:
        if asked not in columns:
            raise DataError(f"{word}={asked}: {file} has the columns {', '.join(columns)}; name one of them")
        return asked
    found = [name for name in columns if name.lower() in usual]
    if len(found) != 1:
        raise DataError(f"{file} has the columns {', '.join(columns) or 'of an empty table'}; name one with {word}=COLUMN")
    return found[0]


def _picture(root: Path, file: Path, name: str) -> Path | None:
    """Return the picture in a row of a table, from the table's folder or from `root`; None if there is no such file below `root`."""
    for home in (file.parent, root):
        below = os.path.relpath(home / name.strip(), root)  # without following links: a picture may be a link to another folder
        if not below.startswith(os.pardir) and (root / below).is_file():
            return root / below
    return None


def _split(place: str, path: Path, column: str) -> str:
    """Return the split of a row: from its column, else from the folders above the picture, else "train"."""
    found = {part.lower() for part in path.parts[:-1]} & {*SPLITS}
    if not column.strip() and len(found) > 1:
        raise DataError(f"{place}: {path} is in folders of the splits {' and '.join(sorted(found))}; write the right one into a column named split")
    return column.strip().lower() or next(iter(found), TRAIN_NAMES[0])
