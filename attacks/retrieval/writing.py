"""Passages for target questions: what a writer gets, and the parts that texts are made of.

Shape letters: T targets, K candidate answers, L places of a text, A places of an answer, n passages of a target, C claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from attacks.retrieval.goals import Answered, answers_of, each_of, with_passages
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import PADDING, joined


@dataclass(frozen=True, eq=False, kw_only=True)
class Aim:
    """The target questions of an attack and the answers that it wishes.

    Args:
        targets: T questions.
        wish: (T,) int64, the wished answer of each, by its place among the candidates.
    """

    targets: Dataset
    wish: Tensor

    @property
    def right(self) -> list[list[int]]:
        """The words of the right answer of each question."""
        return self._said(self.targets.labels)

    @property
    def wished(self) -> list[list[int]]:
        """The words of the wished answer of each question."""
        return self._said(self.wish)

    def _said(self, places: Tensor) -> list[list[int]]:
        return [words_in_order(answers[place]) for answers, place in zip(answers_of(self.targets), places.tolist(), strict=True)]


class Writer(Protocol):
    """A way to write poisoned passages, as a frozen dataclass."""

    def write(self, known: Known, aim: Aim, count: int, rng: Key) -> Tensor:
        """Return (T, n, L), `count` passages for each target question.

        Raises:
            ConfigError: what is missing for so many, or a text that is longer than a row.
        """
        ...


def written(writer: Writer, known: Known, rng: Key) -> Poisoned:
    """Return the rows followed by as many passages for each target question as the budget allows.

    Raises:
        ConfigError: as `Writer.write`, or a budget of fewer passages than targets.
        Incompatible: the test rows are no questions with wished answers.
    """
    aim = aim_of(known)
    texts = writer.write(known, aim, each_of(known), rng)
    return with_passages(known, texts.flatten(0, 1), Answered(ids=aim.targets.ids, wish=aim.wish, texts=texts))


def aim_of(known: Known) -> Aim:
    """Return the target questions with the answers that the task wishes for them.

    Raises:
        Incompatible: the test rows are no questions with wished answers.
    """
    if "wish" not in known.targets.extra:
        raise Incompatible(
            "attacks on retrieval aim at questions with wished answers, and the test rows have none; use a task of retrieval, such as task=facts"
        )
    return Aim(targets=known.targets, wish=known.targets.extra["wish"])


def claims(aim: Aim, count: int) -> Tensor:
    """Return (T, n, L), the first `count` texts of each question that state the wished answer.

    The task's texts state the answer that the task wishes. For another one, the words of that answer are replaced in them; a text without these
    words is left out.

    Raises:
        ConfigError: a question has fewer.
    """
    stated_TCL, old = aim.targets.extra["claims"], Aim(targets=aim.targets, wish=aim.targets.extra["wish"]).wished
    found = [
        [new for text in texts if (words := words_in_order(text)) and (new := restated(words, before, after))]
        for texts, before, after in zip(stated_TCL, old, aim.wished, strict=True)
    ]
    least = min((len(texts) for texts in found), default=count)
    if least < count:
        asked = f"{count} passages are to be written for each of {len(found)} targets, and a question has {least} texts that state the wished answer"
        raise ConfigError(f"{asked}; " + ("lower threat.budget.count, or raise task.claims" if least else "use a task that has some, such as task=facts"))
    length = stated_TCL.shape[2]
    rows = [row(words, length) for texts in found for words in texts[:count]]
    return torch.tensor(rows, dtype=torch.int64).view(len(found), count, length)


def restated(words: list[int], before: list[int], after: list[int]) -> list[int]:
    """Return the words of a text with one answer in place of another, wherever it stands; empty if it stands nowhere."""
    if before == after:
        return words
    text, place, met = list[int](), 0, False
    while place < len(words):
        here = words[place : place + len(before)] == before
        text += after if here else words[place : place + 1]
        place, met = place + (len(before) if here else 1), met or here
    return text if met else []


def row(words: list[int], length: int) -> list[int]:
    """Return the words with padding up to this length.

    Raises:
        ConfigError: more words than that.
    """
    check_room(len(words), length)
    return [*words, *[PADDING] * (length - len(words))]


def whole(*parts: Tensor) -> Tensor:
    """Return (T, n, L), the words of the parts (T, n, L) one after the other.

    Raises:
        ConfigError: a text with more words than a row has places.
    """
    length = parts[0].shape[-1]
    lengths = torch.stack([(part != PADDING).sum(2) for part in parts]).sum(0)
    check_room(int(lengths.max()) if lengths.numel() else 0, length)
    return joined(*(part.flatten(0, 1) for part in parts), length=length).view(parts[0].shape)


def words_in_order(text: Tensor) -> list[int]:
    """Return the words of (L,) without padding."""
    return cast("list[int]", text[text != PADDING].tolist())


def check_room(words: int, length: int) -> None:
    """Refuse a passage that is longer than a row.

    Raises:
        ConfigError: what to change.
    """
    if words > length:
        raise ConfigError(f"a passage of the attack has {words} words and a row of the task {length} places; raise task.room by {words - length}")
