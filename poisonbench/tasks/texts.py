"""Tasks of texts: rows of token ids that share one vocabulary, and the reader of tables of texts.

Shape letters: N rows, L tokens of a row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.forms.tokens import PADDING, Tokens, vocabulary_of, words_of
from poisonbench.tasks.source import Raw, Split

log = logging.getLogger("poisonbench")


class Document(NamedTuple):
    """A text and the number of its class.

    Args:
        text: at least one word.
        label: number of the class.
        name: of the row in messages, such as "line 17"; empty if the source gives none.
    """

    text: str
    label: int
    name: str = ""


class Width(NamedTuple):
    """How many places the rows of a task of texts have; see the fields of `Texts`.

    Args:
        length: words of a text that are kept; None: the longest text.
        room: free places at the end of every row; None: one for each word of the vocabulary.
        words: reserved words of the vocabulary.
    """

    length: int | None
    room: int | None
    words: tuple[str, ...]

    def check(self) -> None:
        """Check the fields `length`, `room` and `words` of a task.

        Raises:
            ConfigError: a number out of range, or a reserved word that is not one word in lower case.
        """
        if self.length is not None and self.length < 1:
            raise ConfigError(f"task.length={self.length}: give a number of words of 1 or more, or null for the longest text")
        if self.room is not None and self.room < 0:
            raise ConfigError(f"task.room={self.room}: give a number of places of 0 or more, or null for one per word of the vocabulary")
        if odd := [word for word in self.words if words_of(word) != [word]]:
            raise ConfigError(f"task.words: {odd[0]!r} is {words_of(odd[0]) or 'no word'}; give single words in lower case")

    def encoded(self, name: str, parts: Sequence[Sequence[Sequence[str]]], whole: Sequence[Sequence[str]] = ()) -> tuple[Tokens, list[Tensor]]:
        """Return the form of all texts, and (N, L) int64 rows of the texts of each part.

        Args:
            name: of the task, for the log, which says how many texts are cut.
            parts: texts as words; a text without words becomes a row of padding.
            whole: further texts whose words are all in the vocabulary, and which are never cut, such as answers.
        """
        texts = [words for part in parts for words in part]
        longest = max(map(len, texts))
        kept = longest if self.length is None else min(self.length, longest)
        if cut := sum(len(words) > kept for words in texts):
            log.warning("%s: %d of %d texts have more than %d words and are cut; task.length=%d keeps all", name, cut, len(texts), kept, longest)
        form = Tokens(vocabulary=vocabulary_of([*(words[:kept] for words in texts), *whole], self.words))
        room = len(form.vocabulary) - 2 if self.room is None else self.room  # without padding and the unknown word
        return form, [_rows(part, form, kept, kept + room) for part in parts]

    def hint(self, task: Task) -> str:
        """Return the end of an error about rows in two splits: that texts may have become equal by cutting; empty if none is cut."""
        if self.length is None or not (task.train.inputs != PADDING).sum(1).ge(self.length).any():
            return ""
        return f"; task.length={self.length} cuts longer texts, which can make different ones equal: a larger number helps then"


class Columns(NamedTuple):
    """Where a table has its texts and labels: by name, then the first line names the columns; or by number from 0, then every line is a row."""

    text: str | int
    label: str | int


@dataclass(frozen=True, kw_only=True)
class Texts(Split):
    """Settings that all tasks of texts have in common.

    The vocabulary has the words of all rows, test rows included, so that a word means the same id everywhere. It is the alphabet of the task, and
    not what a victim knows: learners know the words of their own training rows.

    Args:
        length: words of a text that are kept, 1 or more; longer texts are cut, and the log says how many. null: the longest text of the task.
        room: places that stay free at the end of every row, 0 or more, for words that an attacker adds. null: one for each word of the vocabulary,
            so that one row has room for every word.
        words: reserved words that the vocabulary has even if no row does, such as the trigger of an attack.
    """

    length: int | None
    room: int | None
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the numbers are in range and that each reserved word is one word."""
        super().__post_init__()
        self.width.check()

    @property
    def width(self) -> Width:
        """How many places a row has."""
        return Width(self.length, self.room, self.words)

    def accepted(self, task: Task) -> Task:
        """Return the task if no row is in two splits; see `Split.accepted`.

        Raises:
            DataError: rows in two splits; if texts may have become equal by cutting, the message says so.
        """
        try:
            return super().accepted(task)
        except DataError as error:
            if not (hint := self.width.hint(task)):
                raise
            raise DataError(f"{error}{hint}") from error

    def raw(self, name: str, train: Sequence[Document], test: Sequence[Document], class_names: tuple[str, ...]) -> Raw:
        """Return the documents as padded rows of token ids; `test` may be empty.

        Raises:
            DataError: no training documents, or a document without a word.
        """
        if not train:
            raise DataError(f"{name} has no texts to train on; add some, one per line")
        form, rows = self.width.encoded(name, [_words(name, train), _words(name, test)])
        return Raw(
            train={"inputs": rows[0], "labels": _labels(train)},
            test={"inputs": rows[1], "labels": _labels(test)},
            class_names=class_names,
            row_names=_names(train),
            test_names=_names(test),
            form=form,
        )


def distinct(name: str, documents: Iterable[Document]) -> list[Document]:
    """Return the first of all documents that have the same words, so that no text is both trained on and tested on; the log says how many are left out."""
    first = dict[tuple[str, ...], Document]()
    count = 0
    for document in documents:
        first.setdefault(tuple(words_of(document.text)), document)
        count += 1
    if len(first) < count:
        log.warning("%s: %d of %d texts repeat the words of an earlier one and are left out", name, count - len(first), count)
    return list(first.values())


def read_table(file: Path, columns: Columns, classes: Sequence[str]) -> list[Document]:
    """Read the texts and labels of a table of tab-separated values in UTF-8; quotation marks have no special meaning.

    Args:
        file: one text per line.
        columns: where texts and labels are.
        classes: the labels as the file writes them, in the order of their numbers; each needs a row.

    Raises:
        DataError: bytes that are no UTF-8, a column that is missing, a text without a word, a label that is no class, or a class without a row. The
            message names the file and the line.
    """
    lines = decoded_lines(file)
    header = lines[0].split("\t") if lines and any(isinstance(column, str) for column in columns) else []
    places = (_place(file, columns.text, header), _place(file, columns.label, header))
    numbers = {name: number for number, name in enumerate(classes)}
    start = 2 if header else 1  # lines are counted from 1
    documents = [_document(f"{file}, line {number}", line.split("\t"), places, numbers) for number, line in enumerate(lines[start - 1 :], start=start)]
    present = {document.label for document in documents}
    if lacking := [name for number, name in enumerate(classes) if number not in present]:
        raise DataError(f"{file} has {len(documents)} rows, and none has the label {lacking[0]}; give at least one row per class")
    return documents


def decoded_lines(file: Path) -> list[str]:
    """Return the lines of a file in UTF-8, without the marks at their ends.

    Raises:
        DataError: bytes that are no UTF-8; the message names the file and the line.
    """
    return [_decoded(file, number, line) for number, line in enumerate(_lines(file), start=1)]


def located(root: str | None, name: str) -> Path:
    """Return the path of a file of the user.

    Args:
        root: the folder that contains it, or the file itself; variables such as $DATA are expanded.
        name: of the file.

    Raises:
        DataError: no folder is named, or there is no such file.
    """
    if root is None:
        raise DataError(f"this task reads {name}, which is your own file; name its folder with task.root=PATH")
    path = Path(os.path.expandvars(root)).expanduser()
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise DataError(f"no file {name} at task.root={root}; give the path of the folder that contains it")
    return found


def _words(name: str, documents: Sequence[Document]) -> list[list[str]]:
    texts = [words_of(document.text) for document in documents]
    if not all(texts):
        place = [bool(words) for words in texts].index(False)
        raise DataError(f"{name}, {documents[place].name or f'row {place}'}: the text has no word; correct or remove the row")
    return texts


def _rows(texts: Sequence[Sequence[str]], form: Tokens, kept: int, length: int) -> Tensor:
    """Return (N, L) int64 token ids: the first `kept` words of each text, then padding up to `length`."""
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for place, words in enumerate(texts):
        rows[place, : min(len(words), kept)] = torch.tensor([form.places[word] for word in words[:kept]])
    return rows


def _names(documents: Sequence[Document]) -> tuple[str, ...]:
    return tuple(document.name for document in documents) if any(document.name for document in documents) else ()


def _labels(documents: Sequence[Document]) -> Tensor:
    return torch.tensor([document.label for document in documents], dtype=torch.int64)


def _lines(file: Path) -> list[bytes]:
    lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def _decoded(file: Path, number: int, line: bytes) -> str:
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}, line {number}: byte {error.start + 1} is no UTF-8; save the file as UTF-8") from error


def _place(file: Path, column: str | int, header: Sequence[str]) -> int:
    if isinstance(column, int):
        return column
    if column not in header:
        raise DataError(f"{file}, line 1: no column is named {column}; the columns are {', '.join(header) or 'none, the file is empty'}")
    return header.index(column)


def _document(where: str, fields: Sequence[str], places: tuple[int, int], numbers: dict[str, int]) -> Document:
    """Return the document of one line."""
    text, label = places
    if max(places) >= len(fields):
        raise DataError(f"{where}: {len(fields)} columns and no column {max(places)}, counted from 0; separate the columns by tabs")
    if not words_of(fields[text]):
        raise DataError(f"{where}: the text has no word; correct or remove the line")
    if fields[label] not in numbers:
        raise DataError(f"{where}: the label {fields[label]!r} is no class; the classes are {', '.join(numbers)}")
    return Document(fields[text], numbers[fields[label]], where.rpartition(", ")[2])
