"""List the pictures of a folder with their classes and splits, from subfolders, a table or a list. Nothing is decoded here."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded
from poisonbench.decoders import reading
from poisonbench.tasks.pictures import NAMED, TEST_NAMES, TRAIN_NAMES, ignored, in_order, is_hidden

SUFFIXES = frozenset(f".{name}" for name in ["png", "jpg", "jpeg", "jpe", "jfif", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"])
TABLES = ("metadata.csv", "metadata.jsonl")  # found automatically; public hubs use these names
IMAGE = ("file_name", "filename", "file", "image", "image_path", "path", "filepath", "img")
LABEL = ("label", "class", "category", "target", "labels", "class_name")
SPLIT = ("split", "set", "subset", "partition")
SPLITS = (*TRAIN_NAMES, *TEST_NAMES)
LIKE_SPLIT = re.compile(rf"(^|[^a-z])({'|'.join(SPLITS)})([^a-z]|$)")


class Entry(NamedTuple):
    """A picture and the name of its class."""

    path: Path
    label: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures to read.

    Args:
        train: training pictures.
        test: test pictures; may be empty.
    """

    train: tuple[Entry, ...]
    test: tuple[Entry, ...]

    def classes(self, where: Path) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their numbers.

        Raises:
            DataError: no training pictures, or test pictures of a class without training pictures.
        """
        names = in_order(label for _, label in self.train)
        if not names:
            raise DataError(f"{where} contains no pictures to train on; name them <class>/<name>.png")
        if strange := sorted({label for _, label in self.test} - {*names}):
            raise DataError(f"{where}: the test rows have the classes {', '.join(strange[:NAMED])}, the training rows do not; give both the same classes")
        return names

    def held_out(self, root: Path, name: str) -> Listing:
        """Return the same pictures, with those in a list file as test rows.

        Args:
            root: the folder that paths in the list start from.
            name: of the list file; one picture per line, with or without its suffix.

        Raises:
            DataError: no such file, lines that name no picture, or pictures that are already divided into training and test rows.
        """
        if self.test:
            raise DataError(f"task.test_list={name}: {root} has test rows already; leave task.test_list out, or move them into the folders of their classes")
        lines = {line.strip() for line in _text(located(root, name, "task.test_list")).splitlines() if line.strip()}
        known = _spelled(root, self.train)
        if not lines:
            raise DataError(f"task.test_list={name} names no picture; write one per line, as <class>/<name>")
        if missing := sorted(line for line in lines if line.removeprefix("./") not in known):
            raise DataError(
                f"task.test_list={name}: {len(missing)} lines name no picture of {root} ({', '.join(missing[:NAMED])}); write <class>/<name>.<suffix>"
            )
        test = {known[line.removeprefix("./")] for line in lines}
        return Listing(train=tuple(entry for entry in self.train if entry not in test), test=tuple(entry for entry in self.train if entry in test))


def by_folders(root: Path, depth: int | None) -> Listing:
    """List pictures whose folders are their classes, below `train` and `test` if these folders exist, else below `root`.

    Args:
        root: the folder.
        depth: how many folders of a path name the class; None takes the whole path.

    Raises:
        DataError: a class without pictures, or pictures beside the folders of other classes.
    """
    train, test = (_child(root, names) for names in (TRAIN_NAMES, TEST_NAMES))
    if train is None and test is not None:
        raise DataError(f"{root} contains {test.name}, but no folder {' or '.join(TRAIN_NAMES)}; put the pictures into train/<class>/ and test/<class>/")
    if train is None:
        return Listing(train=tuple(_of_one_split(root, _entries(root, depth))), test=())
    ignored(root, [path for path in root.iterdir() if path not in (train, test)], "beside the splits")
    return Listing(train=tuple(_entries(train, depth)), test=tuple(_entries(test, depth, every=False)) if test else ())


def _of_one_split(root: Path, entries: Iterator[Entry]) -> Iterator[Entry]:
    """Yield the pictures; none may be in a folder whose name looks like a split.

    Raises:
        DataError: such a folder; its test rows would be trained on, and its classes would be counted twice.
    """
    for path, label in entries:
        if found := next((part for part in path.relative_to(root).parts[:-1] if LIKE_SPLIT.search(part.lower())), None):
            raise DataError(f"{root} contains {path.parent}, and {found} looks like a split; set task.root to the folder that contains train and test")
        yield Entry(path, label)


class Found(NamedTuple):
    """The content of a folder, sorted by name, without hidden entries."""

    here: Path
    pictures: list[Path]
    folders: list[Path]
    others: list[Path]


def _walk(here: Path, above: tuple[Path, ...] = ()) -> Iterator[Found]:
    """Yield the content of a folder and of all folders below it; links to folders are followed."""
    if here.resolve() in above:
        raise DataError(f"{here} is a link to a folder above it; remove the link")
    entries = sorted(path for path in here.iterdir() if not is_hidden(Path(path.name)))
    pictures, folders = [path for path in entries if _is_picture(path)], [path for path in entries if path.is_dir()]
    known = {*pictures, *folders}
    yield Found(here, pictures, folders, [path for path in entries if path not in known])
    for path in folders:
        yield from _walk(path, (*above, here.resolve()))


def _entries(part: Path, depth: int | None, *, every: bool = True) -> Iterator[Entry]:
    """Yield the pictures of a split; with `every`, each class must have at least one."""
    found = list(_walk(part))
    filled = {_kind(part, here, depth) for here, pictures, _, _ in found if pictures}
    empty = [here for here, pictures, folders, _ in found if not pictures and not folders]
    if every and (lacking := [here for here in empty if _kind(part, here, depth) not in filled]):
        others = next(files for here, _, _, files in found if here == lacking[0])
        unread = f"; {others[0].name} cannot be read as a picture, convert it" if others else "; remove the folder"
        lack = "no class folders; name" if lacking == [part] else f"no pictures of the class {_kind(part, lacking[0], depth)}{unread}, or name"
        raise DataError(f"{lacking[0]} contains {lack} pictures <class>/<name>.png")
    ignored(part, [*empty, *(path for _, _, _, others in found for path in others)], "no pictures")
    for here, pictures, folders, _ in found:
        if pictures and here == part:
            found_here = f"{here} contains pictures outside class folders ({pictures[0].name})"
            raise DataError(f"{found_here}; name them <class>/<name>.png, or name a table with task.table=FILE")
        level = len(here.relative_to(part).parts)
        if pictures and folders and (depth is None or level < depth):
            found_here = f"{here} contains pictures ({pictures[0].name}) and folders ({folders[0].name})"
            raise DataError(f"{found_here}; set task.class_depth={level} to make all of them one class, or move the pictures into a separate folder")
        yield from (Entry(path, _kind(part, here, depth)) for path in pictures)


def _kind(part: Path, here: Path, depth: int | None) -> str:
    """Return the name of the class that a folder belongs to."""
    return "/".join(here.relative_to(part).parts[:depth])


def by_table(root: Path, files: Sequence[Path], *, image: str | None, label: str | None) -> Listing:
    """List the pictures in tables with their classes, and with their splits if a column or the folders give them.

    Args:
        root: the folder of all pictures.
        files: CSV, TSV or JSON lines; paths of pictures start from the table's folder, or from `root`.
        image: the column with the paths of pictures; None finds it.
        label: the column with the classes; None finds it.

    Raises:
        DataError: a table that cannot be read, rows whose picture does not exist, or a column that cannot be found.
    """
    parts = defaultdict[str, list[Entry]](list)
    listed = set[Path]()
    for file in files:
        for place, split, entry in _named(root, file, image, label):
            if entry.path in listed:
                raise DataError(f"{place}: {entry.path.relative_to(root)} is listed twice; remove one of the rows")
            listed.add(entry.path)
            parts[split].append(entry)
    train, test = (next((name for name in names if name in parts), None) for names in (TRAIN_NAMES, TEST_NAMES))
    for split in sorted(parts.keys() - {train, test}):
        ignored(root, [path for path, _ in parts[split]], f"of the split {split}")
    known = listed | {root / os.path.relpath(file, root) for file in files}
    ignored(root, [path for path in root.rglob("*") if path.is_file() and path not in known], "listed by no table")
    return Listing(train=tuple(parts[train] if train else ()), test=tuple(parts[test] if test else ()))


def _named(root: Path, file: Path, image: str | None, label: str | None) -> Iterator[tuple[str, str, Entry]]:
    """Yield for each row of a table: its place for messages, its split, and its picture and class."""
    rows = _rows(file)
    columns = list(rows[0]) if rows else []
    pictures, kinds = _column(file, columns, image, IMAGE, "task.image"), _column(file, columns, label, LABEL, "task.label")
    splits = next((name for name in columns if name.lower() in SPLIT), None)
    for number, row in enumerate(rows, start=1):
        place = f"{file}, row {number}"
        path = _picture(root, file, row.get(pictures, ""))
        kind = row.get(kinds, "").strip()
        if path is None or not kind:
            raise DataError(f"{place}: {f'no picture {row.get(pictures)!r}' if path is None else 'no class'}; correct or remove the row")
        yield place, _split(place, path.relative_to(root), row.get(splits, "") if splits else ""), Entry(path, kind)


def tables(root: Path, name: str | None) -> tuple[Path, ...]:
    """Return the named table, or else each `metadata.csv` and `metadata.jsonl` beside the pictures that has a class column.

    Raises:
        DataError: no such file.
    """
    if name is not None:
        return (located(root, name, "task.table"),)
    homes = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name.lower() in SPLITS)]
    found = [home / table for home in homes for table in TABLES if (home / table).is_file()]
    return tuple(file for file in found if any(column.lower() in LABEL for row in _rows(file)[:1] for column in row))


def located(root: Path, name: str, word: str) -> Path:
    """Return the path of a file, from the working directory or from `root`.

    Raises:
        DataError: no such file.
    """
    given = Path(os.path.expandvars(name)).expanduser()
    for path in (given, root / given):
        if path.is_file():
            return path
    raise DataError(f"{word}={name}: no such file in the working directory or in {root}; give the path of a file")


def _rows(file: Path) -> list[Mapping[str, str]]:
    """Read the rows of a table; a table of files and classes without a header gets the header `file,label`."""
    text = _text(file)
    with reading(file, "a table", "write CSV, TSV or JSON lines of file and class"):
        if file.suffix.lower() in (".jsonl", ".ndjson", ".json"):
            parsed = [json.loads(bounded(line)) for line in text.splitlines() if line.strip()]
            return [{str(name): "" if value is None else str(value) for name, value in row.items()} for row in parsed]
        first = text.partition("\n")[0]
        lines = [line for line in csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count)) if line]
        header, rows = ([name.strip() for name in lines[0]], lines[1:]) if lines else ([], [])
        if any(Path(name).suffix.lower() in SUFFIXES for name in header):
            header, rows = ["file", "label", "split"][: len(header)], lines
        if twice := [name for name in header if header.count(name) > 1]:
            raise DataError(f"{file} has two columns {f'named {twice[0]}' if twice[0] else 'without a name'}; rename one of them")
        return [dict(zip(header, row, strict=True)) for row in rows]


def _text(file: Path) -> str:
    with reading(file, "text in UTF-8", "save it as UTF-8"):
        return file.read_text(encoding="utf-8-sig")


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


def _child(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder of a split; upper and lower case are the same.

    Raises:
        DataError: two such folders.
    """
    for name in names:
        found = sorted(path for path in root.iterdir() if path.name.lower() == name and path.is_dir())
        if len(found) > 1:
            raise DataError(f"{root} contains {found[0].name} and {found[1].name}; keep one of them")
        if found:
            return found[0]
    return None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _spelled(root: Path, entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return the pictures by their paths, and also by their paths without the suffix where this is unambiguous."""
    bare = Counter(entry.path.with_suffix("") for entry in entries)
    whole = {entry.path.relative_to(root).as_posix(): entry for entry in entries}
    return {entry.path.relative_to(root).with_suffix("").as_posix(): entry for entry in entries if bare[entry.path.with_suffix("")] == 1} | whole
