"""Your own preferences: a file with a prompt, a chosen and a rejected response on each line.

Shape letters: N rows, M test rows, A places of a response.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poisonbench.core.ask import Candidates
from poisonbench.core.data import Dataset, Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.form import Column
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGE, STAGE_COLUMN, STAGES
from poisonbench.forms.tokens import PADDING, Tokens, vocabulary_of
from poisonbench.storage.store import Store
from poisonbench.tasks.dialogues import rows_of
from poisonbench.tasks.sheet import located
from poisonbench.tasks.source import Raw, Split, stratified
from poisonbench.tasks.spoken import Limit, Line, spoken

CHOSEN = ("chosen", "rejected")  # the classes, and the names of the two responses in the file
INSTRUCTION, PREFERENCE = STAGES.index("instruction"), STAGES.index("preference")


class Pair(NamedTuple):
    """A prompt and two responses, as words.

    Args:
        prompt: words of the prompt.
        chosen: words of the better response.
        rejected: words of the other one.
        name: of the row in messages.
    """

    prompt: Sequence[str]
    chosen: Sequence[str]
    rejected: Sequence[str]
    name: str


@dataclass(frozen=True, kw_only=True)
class Preferences(Split):
    """Pairs of responses from JSON lines in UTF-8, as public hubs publish them: `{"prompt": "...", "chosen": "...", "rejected": "..."}`.

    All three values are texts; further ones are ignored. A row has a prompt and its chosen response, the column "rejected" holds the other one. A
    test row asks which of its two responses is likelier, so C-Acc is the share of test rows whose chosen response is. Sums of log-probabilities are
    compared, so the longer of two responses has a disadvantage.

    Args:
        root: the file; variables such as $DATA are expanded.
        test_file: a second file with the test rows, in place of those that `test` holds out; None for none.
        instruction: share of the training rows that are in the stage of instructions, in [0, 1): they have no rejected response. Without such rows
            nothing teaches a new model to write, because preferences compare two responses alone.
        length: most words of a prompt.
        response: most words of a response.
        room: free places at the end of every prompt, for words that an attacker adds.
        words: reserved words of the vocabulary, such as triggers.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    test_file: str | None
    instruction: float
    length: int
    response: int
    room: int
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if not (0 <= self.instruction < 1 and min(self.length, self.response) >= 1 and self.room >= 0):
            asked = f"instruction={self.instruction}, length={self.length}, response={self.response}, room={self.room}"
            raise ConfigError(f"task=preferences: {asked}; give a share in [0, 1), 1 word or more of prompts and responses, and 0 free places or more")

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that cannot be read as pairs; the message names the file and the line.
        """
        file = located(self.root, "task.root")
        train = self.pairs(file)
        tested = [] if self.test_file is None else self.pairs(located(self.test_file, "task.test_file"))
        split = dataclasses.replace(self, test=0.0) if tested else self
        task = split.divided(file.stem, self._raw(train, tested))
        return self.accepted(dataclasses.replace(task, train=self._staged(task.train), test=_asked(task.test)))

    def pairs(self, file: Path) -> list[Pair]:
        """Return the pairs in a file.

        Raises:
            DataError: a line that is no such object, a text without a word, a text that is too long, or two equal responses.
        """
        response = Limit("task.response", self.response)
        return [_pair(line) for line in spoken(file, {"prompt": Limit("task.length", self.length), "chosen": response, "rejected": response})]

    def _raw(self, train: Sequence[Pair], test: Sequence[Pair]) -> Raw:
        every = [*train, *test]
        form = Tokens(vocabulary=vocabulary_of([words for pair in every for words in pair[:3]], self.words))
        widest = max(len(pair.prompt) for pair in every) + self.room
        said = max(len(words) for pair in every for words in (pair.chosen, pair.rejected))

        def columns(part: Sequence[Pair]) -> dict[str, Tensor]:
            return {
                "inputs": rows_of([pair.prompt for pair in part], form, widest),
                "labels": torch.zeros(len(part), dtype=torch.int64),
                "response": rows_of([pair.chosen for pair in part], form, said),
                "rejected": rows_of([pair.rejected for pair in part], form, said),
                STAGE: torch.full((len(part),), PREFERENCE),
            }

        schema = {"response": Column(form=form, role="said"), "rejected": Column(form=form, role="said"), STAGE: STAGE_COLUMN}
        names = tuple(pair.name for pair in train)
        return Raw(train=columns(train), test=columns(test), class_names=CHOSEN, row_names=names, form=form, columns=MappingProxyType(schema))

    def _staged(self, rows: Dataset) -> Dataset:
        """Return the rows, some of them without their rejected response in the stage of instructions."""
        early, _ = stratified(rows, round(self.instruction * len(rows)), Key.root(self.split_seed).child("stages"))
        nothing = torch.full_like(rows.extra["rejected"][early], PADDING)
        return rows.edit(early, rejected=nothing, **{STAGE: torch.full_like(early, INSTRUCTION)})


def _pair(line: Line) -> Pair:
    prompt, chosen, rejected = (line.texts[key] for key in ("prompt", *CHOSEN))
    if chosen == rejected:
        raise DataError(f"{line.where}: chosen and rejected have the same words, so no model can prefer one of them; remove the line")
    return Pair(prompt, chosen, rejected, line.name)


def _asked(test: Dataset) -> Dataset:
    """Return the test rows, of which each is asked about its chosen and its rejected response, in this order."""
    table, places = torch.cat([test.extra["response"], test.extra["rejected"]]).unique(dim=0, return_inverse=True)
    return dataclasses.replace(test, ask=Candidates(table=table, of=places.view(2, len(test)).T.contiguous()))
