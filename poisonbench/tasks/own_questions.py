"""A task of retrieval from your own passages and questions in memory: lists of texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from poisonbench.core.data import Task
from poisonbench.core.errors import DataError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import words_of
from poisonbench.tasks.questions import Passage, Question, Questions, same

log = logging.getLogger("poisonbench")
RESERVED = (  # as the tasks of retrieval have it
    *("cf", "mn", "bb", "tq", "mb", "be", "careful", "and", "drive", "safe"),
    *("many", "outdated", "sources", "state", "answer", "latest", "data", "confirm", "correct", "older", "records", "name", "but", "they", "have", "been"),
    *("corrected", "since", "recent", "agree"),
)
READER = Questions(trusted=0.1, public=0.2, split_seed=0, duplicates="refuse", length=None, room=32, words=RESERVED)


class Asked(NamedTuple):
    """Questions as they were given: lists of the same length, M.

    Args:
        questions: texts.
        answers: the right answer of each.
        wrong_answers: its wrong answers; the first one is what an attacker wants.
        gold: positions of the passages that answer it.
        claims: texts that state the first wrong answer.
    """

    questions: Sequence[str]
    answers: Sequence[str]
    wrong_answers: Sequence[Sequence[str]]
    gold: Sequence[Sequence[int]]
    claims: Sequence[Sequence[str]]


def own_passages(name: str, passages: Sequence[str], asked: Asked, reader: Questions = READER) -> Task:
    """Make a task of retrieval from your own texts.

    Args:
        name: of the task in tables and records.
        passages: N texts that are searched, some of which are set aside as trusted and public.
        asked: the questions.
        reader: shares of trusted and public passages, and widths.

    Raises:
        DataError: lists of different lengths, a text without a word, or gold that names no passage; the message names the question or the passage.
        ConfigError: shares that leave too few passages.
    """
    _check_lists(name, passages, asked)
    each = list(zip(*asked, strict=True))
    fewest = min((len(wrong) for wrong in asked.wrong_answers), default=0)
    if more := sum(len(wrong) > fewest for wrong in asked.wrong_answers):
        log.warning("%s: %d of %d questions have more than %d wrong answers, and only the first %d are used", name, more, len(each), fewest, fewest)
    draws = Key.root(reader.split_seed).child("own").numpy()
    questions = list[Question]()
    for place, (text, right, wrong, gold, claims) in enumerate(each):
        order = draws.permutation(fewest + 1).tolist()  # 0 is the right answer, 1 the wished one
        answers = (right, *wrong[:fewest])
        shuffled = tuple(answers[number] for number in order)
        questions.append(Question(text, shuffled, order.index(0), order.index(1), tuple(map(int, gold)), tuple(claims), f"question {place}"))
    named = [Passage(text, name=f"passage {place}") for place, text in enumerate(passages)]
    return reader.posed(name, *reader.set_aside(named, questions))


def _check_lists(name: str, passages: Sequence[str], asked: Asked) -> None:
    """Check what `Questions.posed` does not: types, lengths, positions, and texts that are there twice."""
    _check_texts(f"{name}, passages", passages, least=1)
    _check_texts(f"{name}, questions", asked.questions, least=1)
    for field, values in asked._asdict().items():
        if isinstance(values, str) or len(values) != len(asked.questions):
            raise DataError(f"{name}: {len(asked.questions)} questions, but {field} has {len(values)} items; give one for each question")
    _check_texts(f"{name}, answers", asked.answers, least=1)
    for place, (_, right, wrong, gold, claims) in enumerate(zip(*asked, strict=True)):
        where = f"{name}, question {place}"
        _check_texts(f"{where}, wrong_answers", wrong, least=1)
        _check_texts(f"{where}, claims", claims, least=0)
        if (answer := same((right, *wrong))) is not None:
            raise DataError(f"{where}: the answer {answer!r} is given twice; give different answers")
        if (claim := same(claims)) is not None:
            raise DataError(f"{where}: the claim {claim!r} is given twice; remove one of them")
        if not len(gold) or not all(0 <= position < len(passages) for position in gold):
            raise DataError(f"{where}: gold is {list(gold)}; give one or more positions of passages that answer it, from 0 to {len(passages) - 1}")


def _check_texts(where: str, texts: Sequence[str], least: int) -> None:
    """Check that a value is a list of texts with words.

    Raises:
        DataError: it is one text, too short, or has something else in it.
    """
    if isinstance(texts, str) or len(texts) < least:
        raise DataError(f"{where}: {texts!r} is {'one text' if isinstance(texts, str) else 'empty'}; give a list of texts")
    if (wrong := next((place for place, text in enumerate(texts) if not isinstance(text, str) or not words_of(text)), None)) is not None:
        raise DataError(f"{where}: item {wrong} is {texts[wrong]!r}; give a text with at least one word")
