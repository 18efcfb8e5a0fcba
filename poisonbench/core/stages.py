"""The stages of a language model's training: which rows are of which, and how often each row is trained on.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Choice, Column
from poisonbench.core.reach import OWN_ROWS

STAGES = ("pretraining", "instruction", "safety", "preference", "finetuning")  # in the order of the training
STAGE = "stage"  # the column with the number of each row's stage
STAGE_COLUMN = Column(form=Choice(size=len(STAGES)), role="sealed")


def stage_of(data: Dataset) -> Tensor:
    """Return (N,) int64, the number of each row's stage; rows without that column are all of the first."""
    return data.extra.get(STAGE, torch.zeros(len(data), dtype=torch.int64))


def number_of(name: str, where: str) -> int:
    """Return the number of a stage.

    Raises:
        ConfigError: there is no such stage; `where` is the key that names it.
    """
    if name not in STAGES:
        raise ConfigError(f"{where}={name}: choose one of {', '.join(STAGES)}")
    return STAGES.index(name)


def passes(epochs: object, data: Dataset) -> Tensor | None:
    """Return (N,) int64, how often each row is trained on; None where the training has no epochs.

    Args:
        epochs: the fact of that name: a number, or one for each stage by its name.
        data: the rows.
    """
    if isinstance(epochs, int):
        return torch.full((len(data),), epochs)
    if not isinstance(epochs, Mapping):
        return None
    return torch.tensor([int(epochs.get(name, 0)) for name in STAGES])[stage_of(data)]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The rows of one stage, such as those of the fine-tuning.

    Args:
        name: "pretraining", "instruction", "safety", "preference" or "finetuning".
    """

    VERSION: ClassVar[int] = 1
    name: str

    def __post_init__(self) -> None:
        """Refuse an unknown stage."""
        number_of(self.name, "threat.reach.name")

    def writable(self, data: Dataset, malicious: Tensor) -> Tensor:
        """Return (N,) bool, the rows of the stage that are the attacker's."""
        return (stage_of(data) == STAGES.index(self.name)) & OWN_ROWS.writable(data, malicious)
