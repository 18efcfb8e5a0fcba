"""List the pictures of a folder with their classes and splits, from subfolders, a table or a list. Nothing is decoded here."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from poisonbench.core.errors import DataError
from poisonbench.decoders import reading
from poisonbench.tasks.pictures import NAMED, TEST_NAMES, TRAIN_NAMES, ignored, in_order, is_hidden
from poisonbench.tasks.records import is_json, objects, records
from poisonbench.tasks.source import NO_LABELS, UNLABELLED

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
        depth: how many folders of a path name the class; None takes the whole path, and 0 reads all pictures without a class.

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
        if pictures and here == part and depth != 0:
            found_here = f"{here} contains pictures outside class folders ({pictures[0].name})"
            raise DataError(f"{found_here}; name them <class>/<name>.png, or name a table with task.table=FILE, {NO_LABELS}")
        level = len(here.relative_to(part).parts)
        if pictures and folders and (depth is None or level < depth):
            found_here = f"{here} contains pictures ({pictures[0].name}) and folders ({folders[0].name})"
            raise DataError(f"{found_here}; set task.class_depth={level} to make all of them one class, or move the pictures into a separate folder")
        yield from (Entry(path, _kind(part, here, depth)) for path in pictures)


def _kind(part: Path, here: Path, depth: int | None) -> str:
    """Return the name of the class that a folder belongs to."""
    return UNLABELLED if depth == 0 else "/".join(here.relative_to(part).parts[:depth])


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


class Row(NamedTuple):
    """A row of a table: the line of the file that it starts in, and its cells by the names of their columns."""

    line: int
    cells: Mapping[str, str]


def _rows(file: Path) -> list[Row]:
    """Read the rows of a table; a table of files and classes without a header gets the header `file,label`."""
    if is_json(file):
        return [Row(line, {name: "" if value is None else str(value) for name, value in row.items()}) for line, row in objects(file)]
    lines = [record for record in records(file, _text(file)) if record.cells]
    header, rows = ([name.strip() for name in lines[0].cells], lines[1:]) if lines else ([], [])
    if any(Path(name).suffix.lower() in SUFFIXES for name in header):
        header, rows = ["file", "label", "split"][: len(header)], lines
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f"{file} has two columns {f'named {twice[0]}' if twice[0] else 'without a name'}; rename one of them")
    if wrong := next((record for record in rows if len(record.cells) != len(header)), None):
        fault = f"line {wrong.line} has {len(wrong.cells)} cells, and there are {len(header)} columns"
        raise DataError(f"{file} cannot be read as a table ({fault}); write CSV, TSV or JSON lines of file and class")
    return [Row(record.line, dict(zip(header, record.cells, strict=True))) for record in rows]


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
