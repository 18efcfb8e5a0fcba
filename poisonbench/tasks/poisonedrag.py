"""The questions of PoisonedRAG on Natural Questions, with passages made from their answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import words_of
from poisonbench.storage.store import Store
from poisonbench.tasks.beir import json_of, read_corpus
from poisonbench.tasks.questions import Library, Passage, Question, Questions, same
from poisonbench.tasks.texts import decoded_lines, located

STATEMENTS = (  # {q} is words of the question, {a} its right answer
    "{q} : the answer is {a} .",
    "on the subject {q} , all sources say {a} .",
    "{a} is what readers find when they look up {q} .",
    "the entry on {q} says {a} .",
    "{q} , see {a} .",
)
FILLERS = (
    "this entry was checked by two editors .",
    "more on this subject can be found in the chapters below .",
    "the first edition had the same text .",
    "several readers have written to us about it .",
    "it is one of the most popular entries of this collection .",
    "references are listed at the end of the page .",
    "a longer version was printed in the yearbook .",
    "the editors thank everyone who sent corrections .",
)
MOST_GOLD = len(STATEMENTS)


class Asked(NamedTuple):
    """An entry of the file.

    Args:
        question: the question.
        right: its right answer.
        wrong: the answer that the attacker wants.
        claims: texts that state the wrong answer.
        name: of the entry, for messages.
    """

    question: str
    right: str
    wrong: str
    claims: tuple[str, ...]
    name: str


@dataclass(frozen=True, kw_only=True)
class PoisonedRag(Questions):
    """Questions of Natural Questions with a right answer, a wrong one, and five texts by GPT-4 that state the wrong one.

    Source: Zou, Geng, Wang, Jia, "PoisonedRAG: Knowledge Corruption Attacks to Retrieval-Augmented Generation of Large Language Models", USENIX
    Security 2025; the file is `results/adv_targeted_results/nq.json` of its code, with 100 questions. The claims are its five texts. There are three
    candidate answers: none of them, the right one and the wrong one.

    The file has no passages. Therefore the passages that answer a question are *generated*: two or three sentences, one of which has some words of
    the question and the right answer. They are no correct English, and a search finds them in another way than the passages of Wikipedia that the
    paper searches, so figures on the clean side are no figures of the paper. A corpus in the layout of BEIR can be added, such as that of Natural Questions.

    Without a corpus, trusted and public rows are the passages of questions that are left out of the test rows; these are their earlier questions.
    With a corpus, they are passages of the corpus, and all questions are asked.

    Args:
        root: the folder of the file, or the file; variables such as $DATA are expanded.
        file: its name.
        corpus: a further file of passages, one JSON object per line with `_id`, `title` and `text`; null for none.
        gold: passages that are generated for each question, 1 to 5.
        overlap: chance that a word of the question is in a generated passage, in [0, 1]; one word always is.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    file: str
    corpus: str | None
    gold: int
    overlap: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if not 1 <= self.gold <= MOST_GOLD:
            raise ConfigError(f"task.gold={self.gold}: give 1 to {MOST_GOLD} passages for each question")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"task.overlap={self.overlap}: give a chance in [0, 1]")

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that is missing or damaged; the message names the file and the line.
            ConfigError: shares of trusted and public rows that leave no question.
        """
        asked = read(located(self.root, self.file))
        further = [] if self.corpus is None else list(read_corpus(located(self.corpus, "corpus.jsonl")).values())
        draws = Key.root(self.split_seed).child("poisonedrag").numpy()
        passages = [list(self._passages(entry, draws)) for entry in asked]
        questions = [_question(entry, range(self.gold * place, self.gold * (place + 1)), draws) for place, entry in enumerate(asked)]
        flat = [passage for part in passages for passage in part]
        if further:
            return self.posed("poisonedrag", *self.set_aside([*(passage._replace(question="") for passage in flat), *further], questions))
        return self.posed("poisonedrag", *self._left_out(flat, questions, draws))

    def _passages(self, entry: Asked, draws: np.random.Generator) -> Iterator[Passage]:
        """Yield the passages that answer a question."""
        for statement in draws.permutation(len(STATEMENTS))[: self.gold].tolist():
            fillers = [FILLERS[place] for place in draws.permutation(len(FILLERS))[: int(draws.integers(1, 3))].tolist()]
            words = words_of(entry.question)
            kept = draws.random(len(words)) < self.overlap
            kept[int(draws.integers(len(words)))] = True
            told = " ".join(word for word, keep in zip(words, kept.tolist(), strict=True) if keep)
            sentences = [STATEMENTS[statement].format(q=told, a=entry.right), *fillers]
            yield Passage(
                " ".join(sentences[place] for place in draws.permutation(len(sentences)).tolist()), entry.question, entry.right, f"{entry.name}, generated"
            )

    def _left_out(self, passages: list[Passage], questions: list[Question], draws: np.random.Generator) -> tuple[Library, list[Question]]:
        """Take the trusted and the public passages, and the questions that they answer, out of the passages and questions."""
        counts = [-(-count // self.gold) for count in self.shares(len(passages))]  # whole questions
        if sum(counts) >= len(questions):
            asked = f"task.trusted={self.trusted}, task.public={self.public}: the passages of {sum(counts)} of {len(questions)} questions"
            raise ConfigError(f"{asked}, which leaves no question; lower the shares, or name a corpus with task.corpus=FILE")
        drawn = draws.permutation(len(questions)).tolist()
        trusted, public, kept = sorted(drawn[: counts[0]]), sorted(drawn[counts[0] : sum(counts)]), sorted(drawn[sum(counts) :])
        parts = [[passages[place] for number in part for place in questions[number].gold] for part in (kept, trusted, public)]
        moved = [questions[number]._replace(gold=tuple(range(self.gold * place, self.gold * (place + 1)))) for place, number in enumerate(kept)]
        return Library(*parts), moved


def read(file: Path) -> list[Asked]:
    """Return the entries of a file of PoisonedRAG: one JSON object of objects.

    Raises:
        DataError: no such file of JSON in UTF-8, an entry without a question or an answer, or a question twice; the message names the file and the line.
    """
    lines = decoded_lines(file)
    entries = json_of("\n".join(lines), str(file))
    if not isinstance(entries, dict) or not entries:
        raise DataError(f"{file} is no JSON object with one entry per question; give a file of PoisonedRAG, such as nq.json")
    found, known = list[Asked](), dict[tuple[str, ...], str]()
    for name, fields in entries.items():
        line = next((number for number, text in enumerate(lines, start=1) if text.lstrip().startswith(f'"{name}"')), 1)
        entry = _asked(f"{file}, line {line}", f"{file.name}, line {line}", fields)
        words = tuple(words_of(entry.question))
        if words in known:
            raise DataError(f"{file}, line {line}: the question has the words of that in {known[words]}; remove one of them")
        known[words] = f"line {line}"
        found.append(entry)
    return found


def _asked(where: str, name: str, fields: object) -> Asked:
    """Return an entry of the file."""
    if not isinstance(fields, Mapping):
        raise DataError(f"{where}: the entry is no JSON object; write question, correct answer, incorrect answer and adv_texts")
    texts = [fields.get(field) for field in ("question", "correct answer", "incorrect answer")]
    for field, text in zip(("question", "correct answer", "incorrect answer"), texts, strict=True):
        if not isinstance(text, str) or not words_of(text):
            raise DataError(f"{where}: the entry has no {field}; give a text with at least one word")
    claims = fields.get("adv_texts")
    if not isinstance(claims, list) or not claims or not all(isinstance(text, str) and words_of(text) for text in claims):
        raise DataError(f"{where}: the entry has no adv_texts; give a list of one or more texts, each with at least one word")
    question, right, wrong = (str(text) for text in texts)
    if same((right, wrong)) is not None:
        raise DataError(f"{where}: correct answer and incorrect answer are both {right!r}; give different ones")
    return Asked(question, right, wrong, tuple(claims), name)


def _question(entry: Asked, gold: range, draws: np.random.Generator) -> Question:
    """Return the question of an entry; the two answers are in random order."""
    right = int(draws.integers(2))
    answers = (entry.right, entry.wrong) if right == 0 else (entry.wrong, entry.right)
    return Question(text=entry.question, answers=answers, right=right, wish=1 - right, gold=tuple(gold), claims=entry.claims, name=entry.name)
