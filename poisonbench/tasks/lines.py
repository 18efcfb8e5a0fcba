"""Plain files with one text per line: the labels are in a second file, or they are the names of the files."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.tasks.listing import LABEL
from poisonbench.tasks.pictures import TEST_NAMES, TRAIN_NAMES, ignored, is_hidden
from poisonbench.tasks.records import MARK, text_of
from poisonbench.tasks.sheet import Sheet
from poisonbench.tasks.source import NO_LABELS, Put, copied
from poisonbench.tasks.writing import Copy, absolute

TEXT = ("text", "sentence", "message", "review", "content", "document", "body")  # usual names of a column of texts
SUFFIX = ".txt"


class Plain(NamedTuple):
    """Plain files of texts.

    Args:
        root: the file, or the folder of files that are named like classes.
        train: files of the training rows.
        test: files of the test rows; may be empty.
        labels: the file with one label per line; None if the files are named like classes, or if the texts have no labels.
        apart: a further file with test rows.
    """

    root: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()
    labels: Path | None = None
    apart: Path | None = None

    def sheet(self, files: Sequence[Path], *, unlabelled: bool) -> Sheet:
        """Return the texts of some files as a table with the columns `text` and `label`; without labels, only `text`.

        Raises:
            DataError: no labels, a text without a label or a label without a text, no texts, or bytes that are no UTF-8.
        """
        found = [(file, line) for file in files for line in self._lines(file, unlabelled=unlabelled)]
        if not found:
            raise DataError(f"{self.root} has no texts; write one per line")
        return Sheet(
            file=self.root,
            header=("text",) if unlabelled else ("text", "label"),
            rows=tuple((line.text,) if unlabelled else (line.text, line.label) for _, line in found),
            lines=tuple(line.number for _, line in found),
            homes=tuple(self.home(file) for file, _ in found),
        )

    def training(self, *, unlabelled: bool) -> Sheet:
        """Return the training rows; see `sheet`.

        Raises:
            DataError: labels that are no classes.
        """
        found = self.sheet(self.train, unlabelled=unlabelled)
        kinds = set() if unlabelled else {*found.cells("label")}
        if len(kinds) in (1, len(found.rows)):
            fault = f"one label, {min(kinds)}," if len(kinds) == 1 else "another label"
            raise DataError(f"{self.labels or self.root} gives {fault} to each text, so these are no classes; give two or more classes with several texts")
        return found

    def home(self, file: Path) -> str:
        """Return the name of a file in names of rows."""
        return file.name if file == self.root else file.relative_to(self.root).as_posix()

    def _lines(self, file: Path, *, unlabelled: bool) -> Iterator[Line]:
        texts = _stripped(file)
        if not unlabelled and self.labels is None and file == self.root:
            raise DataError(f"{file} has one text per line and no labels; name a file with one label per line with task.labels=FILE, {NO_LABELS}")
        labels = [file.stem] * len(texts) if self.labels is None else _stripped(self.labels)
        if len(labels) != len(texts):
            raise DataError(f"{self.labels} has {len(labels)} lines and {file} has {len(texts)}; give one label for each text, in the same order")
        for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
            if self.labels is not None and bool(text) != bool(label):
                raise DataError(f"{file}, line {number}: there is {'no label for this text' if text else 'a label, but no text'}; correct both files")
            if text:
                yield Line(number, text, label)


class Line(NamedTuple):
    """One text: its line in the file, from 1, the text without spaces around it, and its label."""

    number: int
    text: str
    label: str


def plain_files(root: str | None, labels: str | None) -> Plain | None:
    """Return the plain files that a setting names; None if it names a table.

    A file is plain if its name ends in .txt, unless its first line names a column of texts and one of labels. A folder with such files, or with
    such files in `train` and `test`, has one file for each class.

    Args:
        root: the file or the folder.
        labels: the file of labels.

    Raises:
        ConfigError: a file of labels for texts that have labels already.
        DataError: no such file of labels, or a class in the test files alone.
    """
    path = Path(os.path.expandvars(root or "")).expanduser()
    if root is not None and path.is_dir() and (found := _by_class(path)):
        if labels is not None:
            raise ConfigError(f"task.labels={labels}: the files in {root} are named like their classes; leave task.labels out")
        return found
    if root is not None and path.is_file() and is_plain(path, labelled=labels is not None):
        return Plain(path, (path,), labels=None if labels is None else _located(labels))
    if labels is not None:
        raise ConfigError(f"task.labels={labels}: {root} is no {SUFFIX} file with one text per line; name the column of the labels with task.label=COLUMN")
    return None


def is_plain(file: Path, *, labelled: bool = False) -> bool:
    """Return whether a file has one text per line; with `labelled`, its labels are in another file, so its first line is no header."""
    if file.suffix.lower() != SUFFIX:
        return False
    first = next(iter(_stripped(file)), "")
    names = {cell.strip().strip('"').lower() for cell in re.split("[,;\t]", first)}
    return labelled or not (names & {*TEXT} and names & {*LABEL})


def _by_class(folder: Path) -> Plain | None:
    """Return the files of a folder that are named like classes; None if it has none, or Parquet files.

    Raises:
        DataError: a class in the test files alone.
    """
    train, test = (next((folder / name for name in names if (folder / name).is_dir()), None) for names in (TRAIN_NAMES, TEST_NAMES))
    files, tests = _texts(train or folder), _texts(test) if train and test else ()
    if not files or any(folder.rglob("*.parquet")):
        return None
    if strange := sorted({file.stem for file in tests} - {file.stem for file in files}):
        raise DataError(f"{test} contains {strange[0]}{SUFFIX}, and {train} does not; give both the same classes")
    ignored(folder, [path for path in folder.rglob("*") if path.is_file() and path not in (*files, *tests)], "no files of a class")
    return Plain(folder, files, tests)


def _texts(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX and path.is_file() and not is_hidden(Path(path.name))))


def _located(labels: str) -> Path:
    file = Path(os.path.expandvars(labels)).expanduser()
    if not file.is_file():
        raise DataError(f"no file at task.labels={labels}; give the path of a file with one label per line")
    return file


def _stripped(file: Path) -> list[str]:
    """Return the lines of a file without spaces around them; empty lines at its end are left out."""
    lines = [line.strip() for line in text_of(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def write_lines(plain: Plain, sheet: Sheet, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
    """Write plain files without some texts and their labels, and the test files as they are; return what `task.root` has to name.

    Args:
        plain: the files.
        sheet: the training rows.
        dropped: numbers of the rows to leave out.
        out: an empty folder.
        put: see `Copy`.
    """
    gone = defaultdict[str, set[int]](set)
    for row in dropped:
        gone[sheet.homes[row]].add(sheet.lines[row])
    others = [] if plain.apart is None else [plain.apart]
    written = [(file, gone[plain.home(file)]) for file in plain.train]
    written += [] if plain.labels is None else [(plain.labels, gone[plain.home(plain.root)])]
    copy = Copy(plain.root, [*(file for file, _ in written), *others], out, put)
    for file, lines in written:
        if lines:
            copy.place(file).write_bytes(_without(file, lines))
        else:
            copy.copy(file)
    for file in others:
        copy.copy(file)
    if plain.root.is_dir():
        copy.copy_others([absolute(file) for file in plain.train])
    return copy.place(plain.root)


def _without(file: Path, lines: Collection[int]) -> bytes:
    """Return the bytes of a file without these lines; all others stay as they are."""
    content = file.read_bytes()
    mark = MARK.encode() if content.startswith(MARK.encode()) else b""
    pieces = re.findall(rb"[^\n]*\n|[^\n]+", content.removeprefix(mark))
    return mark + b"".join(piece for number, piece in enumerate(pieces, start=1) if number not in lines)
