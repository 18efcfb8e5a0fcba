"""The columns of tables in files, and the types of their values in the words of schema.org."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 10_000  # the first rows, from which types are found
FORMATS = {".csv": "text/csv", ".tsv": "text/tab-separated-values", ".jsonl": "application/jsonlines", ".parquet": "application/x-parquet"}
INTEGER, DIGITS = re.compile("[-+]?(0|[1-9][0-9]{0,17})"), re.compile("[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|nan|NaN")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Args:
        name: its name in the file.
        kind: its type, such as "sc:Integer"; empty if Croissant has no plain type for it.
        inside: the part of a structured value that is read, such as "bytes".
    """

    name: str
    kind: str
    inside: str = ""


def columns(path: Path) -> list[Column]:
    """Return the columns of a CSV, TSV, JSON-lines or parquet file.

    Raises:
        DataError: a file that cannot be read as a table with a header.
    """
    readers = {".csv": _of_text, ".tsv": _of_text, ".jsonl": _of_json, ".parquet": _of_parquet}
    try:
        found = readers[path.suffix.lower()](path)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a table ({error})") from error
    names = [column.name for column in found]
    if not names or not all(names) or len({*names}) < len(names):
        raise DataError(f"{path} is no table: its first line does not give each column a name of its own")
    return found


def _of_text(path: Path) -> list[Column]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header = next(rows, [])
        some = [row for row in itertools.islice(rows, ROWS) if row]
    if wrong := next((row for row in some if len(row) != len(header)), None):
        raise ValueError(f"a row has {len(wrong)} cells, the header {len(header)}")
    return [Column(name=name, kind=_kind_of_words([row[place] for row in some])) for place, name in enumerate(header)]


def _kind_of_words(cells: Iterable[str]) -> str:
    """Return the type of a column of words.

    Whole numbers with gaps are floats, because pandas reads them so. Digits that would change as a number, such as 007, are a text.
    """
    given = [*cells]
    filled = [cell for cell in given if cell]
    if not filled:
        return "sc:Text"
    if {cell.lower() for cell in given} <= {"true", "false"}:
        return "sc:Boolean"
    if any(DIGITS.fullmatch(cell) and not INTEGER.fullmatch(cell) for cell in filled):
        return "sc:Text"
    if all(map(INTEGER.fullmatch, given)):
        return "sc:Integer"
    return "sc:Float" if all(map(FLOAT.fullmatch, filled)) else "sc:Text"


def _of_json(path: Path) -> list[Column]:
    values: dict[str, list[object]] = {}
    count = 0
    with path.open(encoding="utf-8-sig") as stream:
        for line in itertools.islice((line for line in stream if line.strip()), ROWS):
            row = json.loads(bounded(line))
            if not isinstance(row, Mapping):
                raise ValueError("a line is no JSON object")
            count += 1
            for name, value in row.items():
                values.setdefault(name, []).append(value)
    return [Column(name=name, kind=_kind_of_values(found, count)) for name, found in values.items()]


def _kind_of_values(values: Iterable[object], count: int) -> str:
    """Return the type of JSON values; whole numbers with gaps are floats, and those beyond 64 bits have no plain type."""
    found = [value for value in values if value is not None]
    kinds = {type(value) for value in found}
    if kinds <= {bool} and found:
        return "sc:Boolean"
    if any(type(value) is int and not -(2**63) <= value < 2**63 for value in found):
        return ""
    if kinds == {int} and len(found) == count:
        return "sc:Integer"
    if kinds and kinds <= {int, float}:
        return "sc:Float"
    return "sc:Text" if kinds <= {str} else ""


def _of_parquet(path: Path) -> list[Column]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return [Column(name=field.name, kind=_kind_of_arrow(field.type), inside="bytes" if _holds_bytes(field.type) else "") for field in file.schema_arrow]


def _kind_of_arrow(kind: pa.DataType) -> str:
    from pyarrow import types

    tests = {
        "sc:Boolean": (types.is_boolean,),
        "sc:Integer": (types.is_integer,),
        "sc:Float": (types.is_floating,),
        "sc:Text": (types.is_string, types.is_large_string, types.is_dictionary),
        "sc:ImageObject": (_holds_bytes,),
    }
    return next((name for name, each in tests.items() if any(test(kind) for test in each)), "")


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column has pictures as public hubs store them: a structure with their bytes and their path."""
    from pyarrow import types

    return bool(types.is_struct(kind)) and {kind.field(place).name for place in range(kind.num_fields)} == {"bytes", "path"}
