"""Prompts and their responses as rows: what the tasks of language models have in common.

Shape letters: N rows, L places of a prompt, A places of a response, K answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from poisonbench.core.form import Choice, Column
from poisonbench.core.stages import STAGE, STAGE_COLUMN
from poisonbench.forms.answers import Answers
from poisonbench.forms.tokens import PADDING, Tokens, vocabulary_of
from poisonbench.tasks.source import Raw

NONE_OF_THEM = "none of them"  # the class of a response that is no answer of the task


class Turn(NamedTuple):
    """A prompt and its response, or a text without a prompt.

    Args:
        prompt: words of the prompt, or of the text.
        response: words of the response; empty for a text.
        direct: the answer that the prompt asks for, whether the response gives or refuses it; empty for a text.
        category: number of what the prompt is about.
        skill: number of the kind of instruction.
        stage: number of the stage that trains on it.
        rejected: words of the rejected response of a preference; empty where there is none.
        name: of the row in messages; empty if the source gives none.
    """

    prompt: Sequence[str]
    response: Sequence[str] = ()
    direct: Sequence[str] = ()
    category: int = 0
    skill: int = 0
    stage: int = 0
    rejected: Sequence[str] = ()
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many places the rows have.

    Args:
        free: places at the end of every prompt, for words that an attacker adds.
        response: least places of a response.
        words: reserved words of the vocabulary.
    """

    free: int
    response: int
    words: tuple[str, ...]


def raw_of(
    parts: Mapping[str, Sequence[Turn]], answers: Sequence[Sequence[str]], room: Room, *, categories: int, skills: int
) -> tuple[Raw, Mapping[str, Tensor]]:
    """Return the turns as rows.

    Args:
        parts: "train", "test" and "public" turns; the latter two may be empty.
        answers: the words of each answer that a label may name; "none of them" follows as the last label.
        room: places of the rows.
        categories: number of categories.
        skills: number of kinds of instructions.

    Returns:
        The rows, and the columns of the public rows.
    """
    turns = [turn for part in parts.values() for turn in part]
    form = Tokens(vocabulary=vocabulary_of([*(words for turn in turns for words in (turn.prompt, turn.response, turn.rejected)), *answers], room.words))
    widest = max(len(turn.prompt) for turn in turns) + room.free
    said = max([room.response, *(len(words) for turn in turns for words in (turn.response, turn.rejected))])
    numbers = {tuple(answer): number for number, answer in enumerate(answers)}
    listed = Answers.of([form.ids(answer) for answer in answers])

    def columns(part: Sequence[Turn]) -> dict[str, Tensor]:
        return {
            "inputs": rows_of([turn.prompt for turn in part], form, widest),
            "labels": torch.tensor([numbers.get(tuple(turn.response), listed.other) for turn in part], dtype=torch.int64),
            "response": rows_of([turn.response for turn in part], form, said),
            "rejected": rows_of([turn.rejected for turn in part], form, said),
            "direct": torch.tensor([numbers.get(tuple(turn.direct), listed.other) for turn in part], dtype=torch.int64),
            "category": torch.tensor([turn.category for turn in part], dtype=torch.int64),
            "skill": torch.tensor([turn.skill for turn in part], dtype=torch.int64),
            STAGE: torch.tensor([turn.stage for turn in part], dtype=torch.int64),
        }

    schema = {
        "response": Column(form=form, role="said"),
        "rejected": Column(form=form, role="said"),
        "direct": Column(form=listed, role="sealed"),
        "category": Column(form=Choice(size=categories), role="sealed"),
        "skill": Column(form=Choice(size=skills), role="sealed"),
        STAGE: STAGE_COLUMN,
    }
    raw = Raw(
        train=columns(parts["train"]),
        test=columns(parts["test"]),
        class_names=(*(" ".join(answer) for answer in answers), NONE_OF_THEM),
        row_names=tuple(turn.name for turn in parts["train"]) if any(turn.name for turn in parts["train"]) else (),
        form=form,
        columns=MappingProxyType(schema),
        answers=listed,
    )
    return raw, columns(parts["public"])


def rows_of(texts: Sequence[Sequence[str]], form: Tokens, width: int) -> Tensor:
    """Return (N, width) int64 words of texts, padded at the end."""
    rows = torch.full((len(texts), width), PADDING)
    for place, words in enumerate(texts):
        rows[place, : len(words)] = torch.tensor([form.places[word] for word in words], dtype=torch.int64)
    return rows
