"""Read a CSV file as text: a header, rows, and the line of each row for messages."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poisonbench.core.errors import DataError
from poisonbench.tasks.pictures import NAMED


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table as text.

    Args:
        file: where it is from.
        header: names of the columns.
        rows: cells without surrounding spaces; none is empty.
        lines: the line of the file that each row starts in.
    """

    file: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def cells(self, column: str) -> list[str]:
        """Return the cells of a column."""
        place = self.header.index(column)
        return [row[place] for row in self.rows]

    def where(self, row: int, column: str) -> str:
        """Return the place of a cell for messages."""
        return f"{self.file}, line {self.lines[row]}, column {column}"

    def like(self, other: Sheet) -> Sheet:
        """Return this table, which has the columns of the other.

        Raises:
            DataError: a column is missing.
        """
        if lacking := [name for name in other.header if name not in self.header]:
            raise DataError(f"{self.file} has no column {lacking[0]}, which {other.file} has; add it")
        return self


def located(path: str | None, word: str) -> Path:
    """Return the file that a setting names.

    Raises:
        DataError: no name, or no such file.
    """
    if path is None:
        raise DataError(f"this task reads your own table; name its file with {word}=PATH")
    file = Path(os.path.expandvars(path)).expanduser()
    if not file.is_file():
        raise DataError(f"no file at {word}={path}; give the path of a CSV file")
    return file


def read(file: Path) -> Sheet:
    """Return the table in a file.

    Raises:
        DataError: not UTF-8, no header, no rows, a row of another length, or an empty cell; the message names the line.
    """
    records = _records(file)
    if not records:
        raise DataError(f"{file} is empty; write a header and rows")
    header = records[0][1]
    if twice := next((name for place, name in enumerate(header) if not name or name in header[:place]), None):
        raise DataError(f"{file} has two columns named {twice}; rename one of them")
    if "" in header:
        raise DataError(f"{file}, line {records[0][0]}: column {header.index('') + 1} has no name; give each column one")
    if len(records) == 1:
        raise DataError(f"{file} has a header and no rows; add rows")
    for line, cells in records[1:]:
        if len(cells) != len(header):
            raise DataError(f"{file}, line {line} has {len(cells)} cells, and the header names {len(header)} columns; correct the line")
        if "" in cells:
            raise DataError(f"{file}, line {line}, column {header[cells.index('')]}: the cell is empty; fill it in, or remove the row")
    return Sheet(file=file, header=header, rows=tuple(cells for _, cells in records[1:]), lines=tuple(line for line, _ in records[1:]))


def _records(file: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Return the first line and the cells of each record; blank lines are skipped."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise DataError(f"{file}, line {line} is no text in UTF-8; save the file as UTF-8") from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    line, records = 1, list[tuple[int, tuple[str, ...]]]()
    most = csv.field_size_limit(len(text) + 1)  # of this process: 131,072 characters by default, and a cell may be longer
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((line, tuple(cell.strip() for cell in cells)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, line {line} cannot be read ({error}); correct its quotation marks") from error
    finally:
        csv.field_size_limit(most)
    return records


def listed(names: Sequence[str]) -> str:
    """Return some names for messages."""
    return ", ".join(names[: 2 * NAMED]) + (", ..." if len(names) > 2 * NAMED else "")


def number(cell: str) -> float | None:
    """Return the number that a cell contains; None for a word. "1_000" is a word."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
