"""The classes that captions name."""

from collections.abc import Sequence

import torch

from poisonbench.forms.tokens import words_of
from poisonbench.tasks.captions import Kinds


def named_classes(captions: Sequence[str], names: Sequence[str]) -> torch.Tensor:
    """Return (N,) int64, the class that each caption names first."""
    kinds = Kinds.of(names)
    return torch.tensor([kinds.first(words_of(caption)) for caption in captions])
