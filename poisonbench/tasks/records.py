"""Split tables into records without changing a byte: CSV, TSV and JSON lines, whose records can be left out one by one."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded

JSON_LINES = (".jsonl", ".ndjson", ".json")
MARK = "\ufeff"  # written by some programs at the start of a file in UTF-8


class Record(NamedTuple):
    """One record of a table.

    Args:
        line: the line of the file that it starts in, from 1.
        raw: its characters, with the end of its last line.
        cells: its cells; none for a blank line.
    """

    line: int
    raw: str
    cells: tuple[str, ...]


def is_json(file: Path) -> bool:
    """Return whether a file is named like JSON lines."""
    return file.suffix.lower() in JSON_LINES


def text_of(file: Path) -> str:
    """Return the text of a file, without a mark of UTF-8 at its start.

    Raises:
        DataError: bytes that are no UTF-8; the message names the line.
    """
    content = file.read_bytes()
    try:
        return content.decode().removeprefix(MARK)
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise DataError(f"{file}, line {line} is no text in UTF-8; save the file as UTF-8") from error


def records(file: Path, text: str) -> Iterator[Record]:
    """Yield the records of a CSV file, a TSV file or a file with one JSON value a line; together they are the whole text.

    Raises:
        DataError: quotation marks that do not end; the message names the line.
    """
    if is_json(file):
        for number, raw in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), start=1):  # not splitlines: U+2028 may stand in a JSON string
            yield Record(number, raw, (raw,) if raw.strip() else ())
        return
    taken = list[str]()

    def fed() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    first = text.partition("\n")[0]
    reader = csv.reader(fed(), delimiter=max(",;\t", key=first.count), strict=True)
    line = 1
    most = csv.field_size_limit(len(text) + 1)  # of this process: 131,072 characters by default, and a cell may be longer
    try:
        for cells in reader:
            yield Record(line, "".join(taken), tuple(cells) if any(cell.strip() for cell in cells) else ())
            taken.clear()
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, line {line} cannot be read ({error}); correct its quotation marks") from error
    finally:
        csv.field_size_limit(most)


def without(file: Path, lines: Collection[int]) -> bytes:
    """Return the bytes of a table without the records that start in these lines; all others stay as they are."""
    mark = MARK if file.read_bytes().startswith(MARK.encode()) else ""
    return (mark + "".join(record.raw for record in records(file, text_of(file)) if record.line not in lines)).encode()


def objects(file: Path) -> list[tuple[int, dict[str, object]]]:
    """Return the line and the object of each line of a file of JSON lines.

    Raises:
        DataError: a line that is no JSON object, or that has two values for one name; the message names the line.
    """
    found = list[tuple[int, dict[str, object]]]()
    for record in records(file, text_of(file)):
        if not record.cells:
            continue
        where = f"{file}, line {record.line}"
        try:
            value = json.loads(bounded(record.raw), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} cannot be read as a JSON object ({error}); correct or remove the line") from error
        if not isinstance(value, dict):
            raise DataError(f"{where} is no JSON object; write one per line, such as {{...}} with a name for each value")
        found.append((record.line, value))
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two values for {next(name for name in names if names.count(name) > 1)}")
    return found


def cell(value: object) -> str | None:
    """Return a value of JSON or Parquet as the text of a cell: empty for nothing, None for a list, an object or bytes."""
    if isinstance(value, dict | list | bytes):
        return None
    return "" if value is None else str(value).strip()
