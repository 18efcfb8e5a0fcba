"""Your own instructions: a file with a prompt, its response and its category on each line."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.stages import STAGES
from poisonbench.forms.tokens import words_of
from poisonbench.storage.store import Store
from poisonbench.tasks.dialogues import Room, Turn, raw_of
from poisonbench.tasks.sheet import located
from poisonbench.tasks.source import Split
from poisonbench.tasks.spoken import Limit, Line, spoken

INSTRUCTION = STAGES.index("instruction")

log = logging.getLogger("poisonbench")


@dataclass(frozen=True, kw_only=True)
class Instructions(Split):
    """Prompts and responses from JSON lines in UTF-8, as public hubs publish them: `{"prompt": "...", "response": "...", "category": "..."}`.

    All three values are texts; further ones are ignored. The rows are of the stage of instructions. A category is the kind of an instruction, such as
    "summary", and what the prompt is about, since the file says no more.

    A model is asked how likely each listed answer is, and the right one has to be likelier than all others and than all texts that are not listed. Listed are
    `taught` and the most frequent responses of the file; among equally frequent ones those that come first. Test rows with another response are left out.
    Where each response occurs once, as in files of long texts, a small model knows none of them, and C-Acc is 0.

    Args:
        root: the file; variables such as $DATA are expanded.
        test_file: a second file with the test rows, in place of those that `test` holds out; None for none.
        answers: most responses of the file that are listed; each costs time in the test.
        taught: further answers, which attacks teach; their places are the numbers that attacks name.
        length: most words of a prompt.
        response: most words of a response.
        room: free places at the end of every prompt and of every response, for words that an attacker adds.
        words: reserved words of the vocabulary, such as triggers.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    test_file: str | None
    answers: int
    taught: tuple[str, ...]
    length: int
    response: int
    room: int
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if not (min(self.answers, self.length, self.response) >= 1 and self.room >= 0):
            asked = f"answers={self.answers}, length={self.length}, response={self.response}, room={self.room}"
            raise ConfigError(f"task=instructions: {asked}; give 1 answer or more, 1 word or more of prompts and responses, and 0 free places or more")
        said = [tuple(words_of(answer)) for answer in self.taught]
        if not all(said) or len({*said}) < len(said):
            raise ConfigError(f"task.taught={list(self.taught)}: give different answers of at least one word each")

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that cannot be read as instructions; the message names the file and the line.
        """
        file = located(self.root, "task.root")
        train = self.lines(file)
        tested = [] if self.test_file is None else self.lines(located(self.test_file, "task.test_file"))
        categories = {name: number for number, name in enumerate(sorted({_category(line) for line in [*train, *tested]}))}
        parts = {"train": _turns(train, categories), "test": _turns(tested, categories), "public": []}
        listed = self._listed([*train, *tested])
        said = self.room + max(len(line.texts["response"]) for line in [*train, *tested])
        room = Room(free=self.room, response=max(said, *map(len, listed)), words=self.words)
        raw, _ = raw_of(parts, listed, room, categories=len(categories), skills=len(categories))
        split = dataclasses.replace(self, test=0.0) if tested else self
        task = split.divided(file.stem, raw)
        known = task.test.labels != task.test.num_classes - 1
        if len(task.test) and not known.any():
            raise DataError(f"{file}: none of the {len(task.test)} test rows has a response among the {self.answers} that are listed; raise task.answers")
        if lost := int((~known).sum()):
            log.warning("%s: %d of %d test rows are left out, because their response is not listed; raise task.answers", file, lost, len(known))
        return self.accepted(dataclasses.replace(task, test=task.test.take(known)))

    def lines(self, file: Path) -> list[Line]:
        """Return the lines of a file.

        Raises:
            DataError: see `spoken`.
        """
        limits = {"prompt": Limit("task.length", self.length), "response": Limit("task.response", self.response)}
        return spoken(file, {**limits, "category": Limit("task.length", self.length)})

    def _listed(self, lines: Sequence[Line]) -> list[tuple[str, ...]]:
        """Return the words of all answers, each once."""
        taught = [tuple(words_of(answer)) for answer in self.taught]
        often = Counter(tuple(line.texts["response"]) for line in lines)  # equally frequent ones stay in their order
        return taught + [answer for answer, _ in often.most_common() if answer not in taught][: self.answers]


def _category(line: Line) -> str:
    return " ".join(line.texts["category"])


def _turns(lines: Sequence[Line], categories: Mapping[str, int]) -> list[Turn]:
    """Return the lines as prompts and responses."""
    return [_turn(line, categories[_category(line)]) for line in lines]


def _turn(line: Line, category: int) -> Turn:
    said = line.texts["response"]
    return Turn(line.texts["prompt"], said, said, category=category, skill=category, stage=INSTRUCTION, name=line.name)
