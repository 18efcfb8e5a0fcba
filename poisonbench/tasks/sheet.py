"""Read a table as text, from CSV, JSON lines or Parquet: a header, rows, and the line of each row for messages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.decoders import reading
from poisonbench.tasks.parquet import described, is_single, parts
from poisonbench.tasks.pictures import NAMED
from poisonbench.tasks.records import cell, is_json, objects, records, text_of

NO_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table as text; only the columns that are used need a value in each row.

    Args:
        file: where it is from.
        header: names of the columns.
        rows: cells without surrounding spaces; None for a list, an object or bytes.
        lines: the line of the file that each row starts in; for Parquet the number of the row, from 0.
        unit: what `lines` counts.
        known: names of classes, in the order of their numbers, for columns whose metadata gives them.
        homes: the file of each row, for plain files without columns; empty for a table.
    """

    file: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    lines: tuple[int, ...]
    unit: Literal["line", "row"] = "line"
    known: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NO_NAMES)
    homes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows."""
        lines = [f"{self.unit} {line}" for line in self.lines]
        return tuple(f"{home}, {line}" for home, line in zip(self.homes, lines, strict=True)) if self.homes else tuple(lines)

    @property
    def names_with_file(self) -> tuple[str, ...]:
        """Names of the rows, for rows of a second file."""
        return self.names if self.homes else tuple(f"{self.file.name}, {name}" for name in self.names)

    def cells(self, column: str) -> list[str]:
        """Return the cells of a column.

        Raises:
            DataError: a cell that is empty, or that is no single value.
        """
        place, found = self.header.index(column), list[str]()
        for number, row in enumerate(self.rows):
            if not (value := row[place]):
                fault = "the cell is empty; fill it in" if value == "" else "the value is a list, an object or bytes; give one value"
                raise DataError(f"{self.where(number, column)}: {fault}, or remove the row")
            found.append(value)
        return found

    def where(self, row: int, column: str) -> str:
        """Return the place of a cell for messages."""
        if self.homes:
            return f"{self.file / self.homes[row] if self.file.is_dir() else self.file}, line {self.lines[row]}"
        return f"{self.file}, {self.unit} {self.lines[row]}, column {column}"

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
        raise DataError(f"no file at {word}={path}; give the path of a table: CSV, TSV, JSON lines or Parquet")
    return file


def opened(root: str | None, test_file: str | None) -> tuple[Sheet, Sheet | None]:
    """Return the training rows and the test rows: of a file and of `test_file`, or of a folder of Parquet files in the layouts of public hubs.

    Raises:
        DataError: a file that cannot be read as a table; the message names the file and the line.
        ConfigError: two places for test rows.
    """
    if root is not None and (folder := Path(os.path.expandvars(root)).expanduser()).is_dir():
        train, test = parts(folder)
        if test and test_file is not None:
            raise ConfigError(f"task.test_file={test_file}: {folder} has test rows in {test[0].name} already; leave task.test_file out")
        sheet, tested = of_parquet(train), of_parquet(test) if test else None
    else:
        sheet, tested = read(located(root, "task.root")), None
    return sheet, tested if test_file is None else read(located(test_file, "task.test_file"))


def read(file: Path) -> Sheet:
    """Return the table in a file: Parquet or JSON lines by their suffix, else CSV.

    Raises:
        DataError: not UTF-8, no header, no rows, or a row of another length; the message names the line.
    """
    if file.suffix.lower() == ".parquet":
        return of_parquet([file])
    return _of_json(file) if is_json(file) else _of_csv(file)


def _of_csv(file: Path) -> Sheet:
    found = [(record.line, tuple(cell.strip() for cell in record.cells)) for record in records(file, text_of(file)) if record.cells]
    if not found:
        raise DataError(f"{file} is empty; write a header and rows")
    header = found[0][1]
    if twice := next((name for place, name in enumerate(header) if not name or name in header[:place]), None):
        raise DataError(f"{file} has two columns named {twice}; rename one of them")
    if "" in header:
        raise DataError(f"{file}, line {found[0][0]}: column {header.index('') + 1} has no name; give each column one")
    if len(found) == 1:
        raise DataError(f"{file} has a header and no rows; add rows")
    for line, cells in found[1:]:
        if len(cells) != len(header):
            raise DataError(f"{file}, line {line} has {len(cells)} cells, and the header names {len(header)} columns; correct the line")
    return Sheet(file=file, header=header, rows=tuple(cells for _, cells in found[1:]), lines=tuple(line for line, _ in found[1:]))


def _of_json(file: Path) -> Sheet:
    """Return JSON lines as a table: its columns are all names in the order in which they occur."""
    found = objects(file)
    if not found:
        raise DataError(f"{file} is empty; write one JSON object per line")
    header = tuple(dict.fromkeys(name for _, row in found for name in row))
    rows = tuple(tuple(cell(row.get(name)) for name in header) for _, row in found)
    return Sheet(file=file, header=header, rows=rows, lines=tuple(line for line, _ in found))


def of_parquet(files: Sequence[Path], wanted: Sequence[str] = ()) -> Sheet:
    """Return the rows of Parquet files, one file after the other, as a table; class numbers become the names that the metadata gives them.

    Args:
        files: at least one.
        wanted: the columns to read, which the first file has; by default all.

    Raises:
        DataError: a file that cannot be read, other columns than those of the first file, or no rows.
    """
    import pyarrow.parquet as pq

    header: tuple[str, ...] = ()
    known, rows = dict[str, tuple[str, ...]](), list[tuple[str | None, ...]]()
    for file in files:
        with reading(file, "parquet"):
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            named = described(schema)
            header, known = header or tuple(wanted or schema.names), known or named
            if lacking := [name for name in header if name not in schema.names]:
                raise DataError(f"{file} has no column {lacking[0]}, which {files[0]} has; add it")
            single = [name for name in header if is_single(schema.field(name).type)]
            for batch in parquet.iter_batches(batch_size=2000, columns=single):
                columns = {name: _meant(batch[name].to_pylist(), named.get(name, ()), f"{file}, column {name}") for name in single}
                nothing: list[str | None] = [None] * len(batch)
                rows += zip(*(columns.get(name, nothing) for name in header), strict=True)
    if not rows:
        raise DataError(f"{files[0]} has no rows; add rows")
    home = files[0] if len(files) == 1 else files[0].parent
    return Sheet(file=home, header=header, rows=tuple(rows), lines=tuple(range(len(rows))), unit="row", known=known)


def _meant(values: Sequence[object], names: Sequence[str], where: str) -> list[str | None]:
    """Return values as cells; the number of a class becomes its name.

    Raises:
        DataError: a number that has no name.
    """
    if not names:
        return [cell(value) for value in values]
    if strange := next((value for value in values if isinstance(value, int) and not 0 <= value < len(names)), None):
        raise DataError(f"{where}: the label is {strange}, but the metadata of the file names only {len(names)} classes; correct the row or the metadata")
    return [names[value] if isinstance(value, int) else cell(value) for value in values]


def listed(names: Sequence[str]) -> str:
    """Return some names for messages."""
    return ", ".join(names[: 2 * NAMED]) + (", ..." if len(names) > 2 * NAMED else "")


def number(cell: str) -> float | None:
    """Return the number that a cell contains; None for a word. "1_000" is a word."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
