"""List the pictures of a folder with their classes and splits, from subfolders, a table or a list. Nothing is decoded here."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from poisonbench.core.errors import DataError
from poisonbench.tasks.pictures import NAMED, TEST_NAMES, TRAIN_NAMES, ignored, in_order, is_hidden
from poisonbench.tasks.records import text_of
from poisonbench.tasks.source import NO_LABELS, UNLABELLED

SUFFIXES = frozenset(f".{name}" for name in ["png", "jpg", "jpeg", "jpe", "jfif", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"])
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
        lines = {line.strip() for line in text_of(located(root, name, "task.test_list")).splitlines() if line.strip()}
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
