"""Files of prompts and responses: JSON lines whose values are texts, as public hubs publish them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from poisonbench.core.errors import DataError
from poisonbench.forms.tokens import words_of
from poisonbench.tasks.records import is_json, objects


class Limit(NamedTuple):
    """How long a text may be.

    Args:
        name: the setting that says so, such as "task.length".
        words: the most words.
    """

    name: str
    words: int


class Line(NamedTuple):
    """One line of a file.

    Args:
        where: the file and the line, for errors.
        name: of the row, in messages.
        texts: the words of each value, by its key.
    """

    where: str
    name: str
    texts: Mapping[str, list[str]]


def spoken(file: Path, limits: Mapping[str, Limit]) -> list[Line]:
    """Return the lines of a file of JSON objects; further values than those asked for are ignored.

    Args:
        file: its name ends like that of JSON lines.
        limits: the values of each object, and how long each may be.

    Raises:
        DataError: an empty file, a line that is no such object, a value that is missing or no text, or a text that is empty or too long. The message names
            the file and the line.
    """
    if not is_json(file):
        raise DataError(f"{file} is not named like JSON lines; give a file that ends in .jsonl, with one object per line")
    found = list[Line]()
    for number, row in objects(file):
        where = f"{file}, line {number}"
        texts = {key: _words(where, key, row.get(key), limit) for key, limit in limits.items()}
        found.append(Line(where, f"{file.name}, line {number}", texts))
    if not found:
        *first, last = limits
        raise DataError(f"{file} is empty; write one JSON object per line, with {', '.join(first)} and {last}")
    return found


def _words(where: str, key: str, value: object, limit: Limit) -> list[str]:
    if not isinstance(value, str):
        kind = "missing" if value is None else "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "a number"
        raise DataError(f"{where}: {key} is {kind}; give a text")
    if not (words := words_of(value)):
        raise DataError(f"{where}: {key} is empty; give a text with at least one word, or remove the line")
    if len(words) > limit.words:
        raise DataError(f"{where}: {key} has {len(words)} words, more than {limit.name}={limit.words}; set a larger number, or shorten the text")
    return words
