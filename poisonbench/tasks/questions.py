"""Tasks of retrieval: passages that are searched, and questions about them with candidate answers.

Shape letters: N passages, M questions, L places of a text, K answers of a question, A distinct answers, G passages that answer a question, C claims.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poisonbench.core.ask import Candidates
from poisonbench.core.data import Dataset, Overlap, Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.form import Column, Form
from poisonbench.core.retrieve import NONE_OF_THEM, fingerprints
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens, words_of
from poisonbench.tasks.texts import Width

log = logging.getLogger("poisonbench")
NUMBERS = Column(form=Form(), role="sealed")
CLASSES = ("passage",)


class Passage(NamedTuple):
    """A text that can be found.

    Args:
        text: at least one word.
        question: an earlier question that it answers, for passages outside the index; empty for none.
        answer: the answer that it gives to that question, in its own words; empty for none.
        name: of the row in messages, such as "corpus.jsonl, line 17"; empty if the source gives none.
    """

    text: str
    question: str = ""
    answer: str = ""
    name: str = ""


class Question(NamedTuple):
    """A question with its answers.

    Args:
        text: at least one word.
        answers: different candidate answers of at least one word; "none of them" comes in addition, at place 0.
        right: the right one, by its position in `answers`.
        wish: the wrong one that an attacker wants, likewise.
        gold: positions of the passages that answer it in the index; 1 or more.
        claims: different texts that state the wished answer; may be empty.
        name: in messages, such as "queries.jsonl, line 3".
    """

    text: str
    answers: tuple[str, ...]
    right: int
    wish: int
    gold: tuple[int, ...]
    claims: tuple[str, ...]
    name: str = ""


class Library(NamedTuple):
    """The passages of a task.

    Args:
        searched: those of the index.
        trusted: those of the defender; none of them answers a question of the task.
        public: those that no attacker can change, likewise.
    """

    searched: Sequence[Passage]
    trusted: Sequence[Passage]
    public: Sequence[Passage]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Settings that all tasks of retrieval have in common.

    The training rows are the passages of the index. All have the label 0, because a passage has no class. The test rows are the questions. A
    victim is asked which of K candidate answers is right: none of them (place 0), the right answer, and wrong ones. Passages and questions share
    one vocabulary and one width.

    Test rows have three further columns: `gold` (M, G) int64, the fingerprints of the passages that answer the question, padded with 0;
    `wish` (M,) int64, the place of the wrong answer that an attacker wants; `claims` (M, C, L) int64, texts that state the wished answer, then
    rows of padding. Trusted and public rows are passages that answer no question of the task and are not in the index; their columns `question`
    and `answer`, (N, L) both, have an earlier question that the passage answers and its answer, or padding.

    Args:
        trusted: the defender's clean passages, as a share of the passages.
        public: passages that no attacker can change, as a share of the passages.
        split_seed: seed of what is generated, of the order of candidate answers, and of the choice of trusted and public passages.
        duplicates: "refuse" a question that is a passage too, or "allow" it and count it in the record.
        length: words of a text that are kept, 1 or more; longer texts are cut, and the log says how many. null: the longest text of the task.
        room: places that stay free at the end of every row, 0 or more, for words that an attacker adds. null: one for each word of the vocabulary.
        words: reserved words that the vocabulary has even if no text does, such as the trigger of an attack.
    """

    trusted: float
    public: float
    split_seed: int
    duplicates: Overlap
    length: int | None
    room: int | None
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check what can be checked without the texts."""
        if not (self.trusted >= 0 and self.public >= 0 and self.trusted + self.public < 1):
            raise ConfigError(f"task.trusted={self.trusted}, task.public={self.public}: give shares of 0 or more with a sum below 1")
        self.width.check()

    @property
    def width(self) -> Width:
        """How many places a row has."""
        return Width(self.length, self.room, self.words)

    def shares(self, passages: int) -> tuple[int, int]:
        """Return the numbers of trusted and of public passages of a task with so many passages."""
        return round(self.trusted * passages), round(self.public * passages)

    def set_aside(self, passages: Sequence[Passage], questions: Sequence[Question]) -> tuple[Library, list[Question]]:
        """Take the trusted and the public passages out of those that answer no question, and return the questions with the new positions of their gold.

        Raises:
            ConfigError: fewer passages that answer no question than the shares ask for.
        """
        gold = {place for question in questions for place in question.gold}
        free = [place for place in range(len(passages)) if place not in gold]
        trusted, public = self.shares(len(passages))
        if trusted + public > len(free):
            asked = f"task.trusted={self.trusted}, task.public={self.public}: {trusted + public} of {len(passages)} passages"
            raise ConfigError(f"{asked}, and {len(free)} answer no question; lower the shares, or add passages to the corpus")
        drawn = [free[place] for place in Key.root(self.split_seed).child("split").numpy().permutation(len(free))[: trusted + public].tolist()]
        left = sorted({*range(len(passages))} - {*drawn})
        places = {old: new for new, old in enumerate(left)}
        parts = (left, sorted(drawn[:trusted]), sorted(drawn[trusted:]))
        moved = [question._replace(gold=tuple(places[place] for place in question.gold)) for question in questions]
        return Library(*([passages[place] for place in part] for part in parts)), moved

    def posed(self, name: str, library: Library, questions: Sequence[Question]) -> Task:
        """Return the task of these passages and questions.

        Of passages with the same words the first is kept, index before trusted before public; the log says how many are left out.

        Args:
            name: of the task.
            library: the passages.
            questions: with the same number of answers each.

        Raises:
            DataError: no passages, no questions, a text without a word, a question whose answers are not different, or a question that is also a
                passage. The message has the name of the row.
        """
        _check(name, library, questions)
        passages = [passage for part in library for passage in part]
        claims = [claim for question in questions for claim in question.claims]
        told = ([getattr(passage, part) for passage in passages] for part in ("text", "question", "answer"))
        texts = [*told, [question.text for question in questions], claims]
        answers = [words_of(answer) for question in questions for answer in question.answers]
        form, (rows, earlier, given, asked, stated) = self.width.encoded(name, [[words_of(text) for text in part] for part in texts], answers)
        marks = fingerprints(rows)
        new = _first(marks)
        if repeats := len(new) - int(new.sum()):
            log.warning("%s: %d of %d passages repeat the words of an earlier one and are left out", name, repeats, len(new))
        whole = Dataset.of(rows, torch.zeros(len(rows), dtype=torch.int64), num_classes=1, form=form, name=f"{name}, passages")
        ends = torch.tensor([len(part) for part in library]).cumsum(0).tolist()
        index, trusted, public = (torch.arange(start, end)[new[start:end]] for start, end in zip((0, *ends), ends, strict=False))

        def spare(part: Tensor) -> Dataset:
            words = Column(form=form, role="sealed")
            return whole.take(part).with_column("question", earlier[part], words).with_column("answer", given[part], words)

        task = Task(
            name=name,
            train=whole.take(index),
            test=_posed(f"{name}, questions", questions, Rows(asked, stated, marks), form),
            trusted=spare(trusted),
            public=spare(public),
            class_names=CLASSES,
            row_names=tuple(passage.name for passage in passages) if any(passage.name for passage in passages) else (),
            overlap=self.duplicates,
        )
        self._accept(task)
        return task

    def _accept(self, task: Task) -> None:
        """Refuse a row in two splits, unless that is allowed.

        Raises:
            DataError: such rows; if texts may have become equal by cutting, the message says so.
        """
        try:
            task.check()
        except DataError as error:
            if not (hint := self.width.hint(task)):
                raise
            raise DataError(f"{error}{hint}") from error


def same(texts: Sequence[str]) -> str | None:
    """Return the first text that repeats the words of an earlier one, or None."""
    known = set[tuple[str, ...]]()
    for text in texts:
        if (words := tuple(words_of(text))) in known:
            return text
        known.add(words)
    return None


def _check(name: str, library: Library, questions: Sequence[Question]) -> None:
    """Check the texts of a task; see `Questions.posed`."""
    if not library.searched:
        raise DataError(f"{name} has no passages to search; add some, one per line")
    if not questions:
        raise DataError(f"{name} has no questions; add some, one per line")
    for place, passage in enumerate(passage for part in library for passage in part):
        if not words_of(passage.text):
            raise DataError(f"{name}, {passage.name or f'passage {place}'}: the passage has no word; correct or remove it")
    known = dict[tuple[str, ...], str]()
    for place, question in enumerate(questions):
        where = f"{name}, {question.name or f'question {place}'}"
        if not words_of(question.text):
            raise DataError(f"{where}: the question has no word; correct or remove it")
        if earlier := known.get(tuple(words_of(question.text))):
            raise DataError(f"{where}: the question has the words of {earlier}; remove one of them")
        known[tuple(words_of(question.text))] = question.name or f"question {place}"
        if not all(map(words_of, question.answers)):
            raise DataError(f"{where}: an answer has no word; correct or remove it")
        if (answer := same(question.answers)) is not None:
            raise DataError(f"{where}: the answer {answer!r} is given twice; give different answers")
    assert len({len(question.answers) for question in questions}) == 1, "every question needs the same number of answers"
    assert all(question.gold and question.right != question.wish for question in questions)


class Rows(NamedTuple):
    """Texts of a task as rows of token ids.

    Args:
        asked: (M, L) the questions.
        stated: the claims of all questions, one question after the other.
        marks: (N,) fingerprints of all passages.
    """

    asked: Tensor
    stated: Tensor
    marks: Tensor


def _posed(name: str, questions: Sequence[Question], rows: Rows, form: Tokens) -> Dataset:
    """Return the test rows."""
    labels = torch.tensor([question.right + 1 for question in questions])  # place 0 is "none of them"
    wish = torch.tensor([question.wish + 1 for question in questions])
    gold = torch.zeros(len(questions), max(len({*question.gold}) for question in questions), dtype=torch.int64)
    claims = torch.zeros(len(questions), max(len(question.claims) for question in questions), rows.asked.shape[1], dtype=torch.int64)
    start = 0
    for place, question in enumerate(questions):
        found = rows.marks[sorted({*question.gold})].unique()
        gold[place, : len(found)] = found
        claims[place, : len(question.claims)] = rows.stated[start : start + len(question.claims)]
        start += len(question.claims)
    data = Dataset.of(rows.asked, labels, num_classes=len(questions[0].answers) + 1, form=form, name=name)
    columns = {"gold": gold, "wish": wish, "claims": claims}
    for column, values in columns.items():
        data = data.with_column(column, values, NUMBERS)
    return dataclasses.replace(data, ask=_candidates([question.answers for question in questions], form))


def _candidates(answers: Sequence[Sequence[str]], form: Tokens) -> Candidates:
    """Return how the questions are asked: the distinct answers of M questions, and which of them each question has."""
    places: dict[tuple[str, ...], int] = {(): NONE_OF_THEM}
    of = [[NONE_OF_THEM, *(places.setdefault(tuple(words_of(answer)), len(places)) for answer in row)] for row in answers]
    table = torch.zeros(len(places), max(map(len, places)), dtype=torch.int64)
    for words, place in places.items():
        table[place, : len(words)] = torch.tensor(form.ids(words), dtype=torch.int64)
    return Candidates(table=table, of=torch.tensor(of))


def _first(marks: Tensor) -> Tensor:
    """Return (N,) bool, whether no earlier passage has the same fingerprint."""
    first = dict[int, int]()
    for place, mark in enumerate(marks.tolist()):
        first.setdefault(mark, place)
    return torch.tensor([first[mark] == place for place, mark in enumerate(marks.tolist())])
