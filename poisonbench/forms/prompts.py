"""Labels whose classes are described by captions: how a model of pictures and captions is asked for a class.

Shape letters: N rows, P prompts, L words of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Choice
from poisonbench.forms.tokens import PADDING

CAPTION = "caption"  # the column of captions


@dataclass(frozen=True, kw_only=True)
class Prompts(Choice):
    """One of K classes, each with captions that name it; a class without one, such as "no class", is never an answer.

    Args:
        size: K.
        listed: for each class, the words of each of its captions, by their ids.
    """

    KEYED: ClassVar[bool] = True
    listed: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def named(self) -> Tensor:
        """Return (K,) bool, the classes that have captions."""
        return torch.tensor([bool(prompts) for prompts in self.listed])

    @property
    def texts(self) -> Tensor:
        """Return (P, L) int64 words of the captions of all classes, one class after the other, padded at the end."""
        every = [prompt for prompts in self.listed for prompt in prompts]
        longest = max(map(len, every), default=1)
        return torch.tensor([[*prompt, *[PADDING] * (longest - len(prompt))] for prompt in every], dtype=torch.int64).view(-1, longest)

    @property
    def classes(self) -> Tensor:
        """Return (P,) int64, the class that each caption names."""
        return torch.tensor([number for number, prompts in enumerate(self.listed) for _ in prompts], dtype=torch.int64)

    def drawn(self, labels: Tensor, draws: Tensor, length: int) -> Tensor:
        """Return (N, length) int64, for each class in (N,) `labels` one of its captions; (N,) `draws` in [0, 1) choose it.

        Raises:
            ConfigError: a class without captions.
        """
        found = torch.full((len(labels), length), PADDING)
        for row, (label, draw) in enumerate(zip(labels.tolist(), draws.tolist(), strict=True)):
            if not self.listed[label]:
                raise ConfigError(f"no caption names class {label} of this task, so no attack can write one; choose another target")
            words = self.listed[label][int(draw * len(self.listed[label]))]
            found[row, : len(words)] = torch.tensor(words)
        return found


def prompts_of(rows: Dataset, what: str) -> Prompts:
    """Return the captions that name the classes.

    Args:
        rows: any rows of the task.
        what: what needs them, for the error.

    Raises:
        Incompatible: the rows are no pictures with captions.
    """
    form = rows.schema["labels"].form
    if CAPTION not in rows.extra or not isinstance(form, Prompts):
        raise Incompatible(f"{what} needs pictures with captions; choose task=crawl")
    return form
