"""Question files in the layout of BEIR: corpus.jsonl, queries.jsonl and a table of relevant passages, with answers added to the queries."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from poisonbench.core.data import Task
from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import words_of
from poisonbench.storage.store import Store
from poisonbench.tasks.questions import Passage, Question, Questions, same
from poisonbench.tasks.texts import decoded_lines, located

log = logging.getLogger("poisonbench")
CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
SCORE = re.compile("-?[0-9]{1,9}")
COLUMNS = ("query-id", "corpus-id", "score")


class Line(NamedTuple):
    """One line of a file of JSON lines.

    Args:
        where: the file and the number of the line, for messages.
        name: the same without the folder, for the names of rows.
        fields: the JSON object.
    """

    where: str
    name: str
    fields: Mapping[str, object]

    def text(self, field: str) -> str:
        """Return a field that has to be a text with at least one word.

        Raises:
            DataError: it is missing, is no text, or has no word.
        """
        value = self.fields.get(field)
        if not isinstance(value, str) or not words_of(value):
            raise DataError(
                f"{self.where}: {field!r} is {'a text without a word' if isinstance(value, str) else _kind(value)}; give a text with at least one word"
            )
        return value

    def texts(self, field: str) -> list[str]:
        """Return a field that has to be a list of one or more different texts.

        Raises:
            DataError: it is missing, is no such list, or repeats a text.
        """
        value = self.fields.get(field)
        if not isinstance(value, list) or not value or not all(isinstance(text, str) and words_of(text) for text in value):
            raise DataError(f"{self.where}: {field!r} is {_kind(value)}; give a list of one or more texts, each with at least one word")
        if (text := same(value)) is not None:
            raise DataError(f"{self.where}: {field!r} has {text!r} twice; remove one of them")
        return value


@dataclass(frozen=True, kw_only=True)
class Beir(Questions):
    r"""Your own passages and questions, in the layout of the BEIR collection of retrieval data sets, with answers.

    Source of the layout: Thakur, Reimers, Rücklé, Srivastava, Gurevych, "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information
    Retrieval Models", NeurIPS Datasets and Benchmarks 2021. The folder has three files in UTF-8:

    - `corpus.jsonl`, one passage per line: `{"_id": "d1", "title": "...", "text": "..."}`. The title may be missing; else it becomes the start of
      the passage.
    - `queries.jsonl`, one question per line: `{"_id": "q1", "text": "...", "answer": "...", "wrong_answers": ["..."], "claims": ["..."]}`. The last
      three fields are not part of BEIR, and this task needs them: the right answer, one or more wrong ones, and one or more texts that state the
      first wrong answer, which is what an attacker wants.
    - `qrels/<split>.tsv`, the passages that answer a question: a header `query-id<TAB>corpus-id<TAB>score`, then one pair per line. A score of 0 or
      less means that the passage does not answer the question.

    The questions are those of the table. All questions get the same number of candidate answers: the log says if wrong answers are left out for
    that. Trusted and public rows are taken out of the passages that answer no question; no earlier question is known for them.

    Args:
        root: the folder; variables such as $DATA are expanded.
        split: name of the table in the folder qrels, such as test, dev or train.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    split: str

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that is missing or damaged, or a question without an answer; the message names the file and the line.
        """
        corpus, queries, table = (_located(self.root, name) for name in (CORPUS, QUERIES, f"qrels/{self.split}.tsv"))
        passages, asked = read_corpus(corpus), _by_id(queries)
        gold = _qrels(table, asked, passages)
        places = {name: place for place, name in enumerate(passages)}
        lines = {name: line for name, line in asked.items() if name in gold}
        kept = _fewest({name: line.texts("wrong_answers") for name, line in lines.items()}, queries)
        draws = Key.root(self.split_seed).child("beir").numpy()
        questions = [
            _question(line, kept, tuple(places[passage] for passage in gold[name]), draws.permutation(kept + 1).tolist()) for name, line in lines.items()
        ]
        return self.posed(corpus.parent.name, *self.set_aside(list(passages.values()), questions))


def _located(root: str | None, name: str) -> Path:
    """Return the path of a file in the folder of the user.

    Raises:
        DataError: no folder is named, it is a file, or there is no such file.
    """
    found = located(root, name)
    if not found.as_posix().endswith(f"/{name}"):
        raise DataError(f"task.root={root} is a file; give the folder that contains {CORPUS}, {QUERIES} and qrels")
    return found


def read_corpus(file: Path) -> dict[str, Passage]:
    """Return the passages of a corpus in the layout of BEIR, by their ids.

    Raises:
        DataError: a line that cannot be read, an id twice, or a passage without a word; the message names the file and the line.
    """
    return {name: _passage(line) for name, line in _by_id(file).items()}


def json_of(text: str, where: str) -> object:
    """Return the value of a JSON text.

    Raises:
        DataError: no JSON, or a text beyond our limits.
    """
    try:
        value: object = json.loads(bounded(text), object_pairs_hook=_named_once)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails at half of a pair of code units, which is no character
        return value
    except ValueError as error:
        raise DataError(f"{where} cannot be read as JSON ({error}); correct it") from error


def _by_id(file: Path) -> dict[str, Line]:
    """Return the lines of a file by their ids."""
    found = dict[str, Line]()
    for line in _lines(file):
        name = line.text("_id")
        if name in found:
            raise DataError(f"{line.where}: the id {name!r} is that of {found[name].name} too; give each line its own id")
        found[name] = line
    return found


def _lines(file: Path) -> Iterator[Line]:
    """Yield the lines of a file of JSON objects; empty lines are skipped."""
    for number, text in enumerate(decoded_lines(file), start=1):
        where = f"{file}, line {number}"
        if not text.strip():
            continue
        fields = json_of(text, where)
        if not isinstance(fields, dict):
            raise DataError(f"{where}: the line is {_kind(fields)} and no JSON object; write each row as {{...}} on a line of its own")
        yield Line(where, f"{file.name}, line {number}", fields)


def _passage(line: Line) -> Passage:
    """Return the passage of a line: its title, if it has one, and its text."""
    title, text = (line.fields.get(field) or "" for field in ("title", "text"))
    if not isinstance(title, str) or not isinstance(text, str) or not words_of(f"{title} {text}"):
        raise DataError(f"{line.where}: the passage has no word; correct or remove the line")
    return Passage(f"{title} {text}".strip(), name=line.name)


def _qrels(file: Path, queries: Mapping[str, Line], passages: Mapping[str, Passage]) -> dict[str, list[str]]:
    """Return the ids of the passages that answer each question of the table.

    Raises:
        DataError: a line that has not three columns, names no question or no passage, or a table without a passage that answers a question.
    """
    found = dict[str, list[str]]()
    for number, text in enumerate(decoded_lines(file), start=1):
        cells, where = tuple(text.split("\t")), f"{file}, line {number}"
        if number == 1 and cells != COLUMNS:
            raise DataError(f"{where}: the header is {text!r}; write {'<TAB>'.join(COLUMNS)}")
        if number == 1 or not text.strip():
            continue
        if len(cells) != len(COLUMNS) or not SCORE.fullmatch(cells[2].strip()):
            raise DataError(f"{where}: {text!r} is not {'<TAB>'.join(COLUMNS)} with a whole number as score; correct or remove the line")
        query, passage, score = cells
        for name, known, kind in ((query, queries, QUERIES), (passage, passages, CORPUS)):
            if name not in known:
                raise DataError(f"{where}: no line of {kind} has the id {name!r}; correct or remove the line")
        if int(score) > 0:
            found.setdefault(query, []).append(passage)
    if not found:
        raise DataError(f"{file} names no passage that answers a question; add lines with a score of 1 or more")
    return found


def _fewest(wrong: Mapping[str, list[str]], file: Path) -> int:
    """Return the number of wrong answers that every question has; the log says if some questions have more."""
    fewest = min(map(len, wrong.values()))
    if more := sum(len(answers) > fewest for answers in wrong.values()):
        log.warning("%s: %d of %d questions have more than %d wrong answers, and only the first %d are used", file, more, len(wrong), fewest, fewest)
    return fewest


def _question(line: Line, wrong: int, gold: tuple[int, ...], order: list[int]) -> Question:
    """Return the question of a line.

    Args:
        line: of queries.jsonl.
        wrong: number of its wrong answers that are used.
        gold: positions of the passages that answer it.
        order: of the answers; 0 is the right one, 1 the wished one.
    """
    answers = (line.text("answer"), *line.texts("wrong_answers")[:wrong])
    if (answer := same(answers)) is not None:
        raise DataError(f"{line.where}: 'wrong_answers' has the right answer {answer!r}; remove it there")
    return Question(
        text=line.text("text"),
        answers=tuple(answers[place] for place in order),
        right=order.index(0),
        wish=order.index(1),
        gold=gold,
        claims=tuple(line.texts("claims")),
        name=line.name,
    )


def _kind(value: object) -> str:
    """Return what a JSON value is, for a message."""
    kinds = {type(None): "missing", str: "a text", dict: "an object", bool: "a truth value", int: "a number", float: "a number"}
    return ("a list with something else" if value else "an empty list") if isinstance(value, list) else kinds[type(value)]


def _named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object.

    Raises:
        ValueError: a name twice.
    """
    names = [name for name, _ in pairs]
    if len({*names}) < len(names):
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return dict(pairs)
