"""Asymmetric label noise: the rows of a class get the label of the class that looks most like it.

Shape letters: N rows, K classes, R rows chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known

KEPT = -1  # the mark of a class whose rows keep their label
PUBLISHED: Mapping[str, Mapping[int, int]] = MappingProxyType(
    {
        # truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
        "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
        "mnist": {2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
    }
)


@dataclass(frozen=True, kw_only=True)
class Asymmetric:
    """Give the label of one similar class to as many training rows as the budget allows.

    Source: Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach", CVPR 2017: the maps of
    classes for CIFAR-10 and MNIST.

    With mapping=surrogate, each class goes to the one that a surrogate confuses it with most: the other class with the largest mean probability over
    the clean rows of the class. The paper has no such rule; it is for tasks without a published map.

    Differences: the paper flips each row of a mapped class with probability r. Here an exact number of rows is drawn at random from the mapped
    classes, so the budget's rate is a share of all rows. With half of the rows in mapped classes, a rate of 0.2 is the paper's r = 0.4, and from a
    rate of 0.25 on most rows of a mapped class are wrong.

    Args:
        mapping: "surrogate", or the published map of "cifar10" or "mnist".
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    mapping: Literal["surrogate", "cifar10", "mnist"]

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.mapping != "surrogate" and self.mapping not in PUBLISHED:
            raise ConfigError(f"attack.data.mapping={self.mapping}: choose surrogate, {' or '.join(PUBLISHED)}")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with similar labels on as many of them as the budget allows.

        Raises:
            ConfigError: a published map of another number of classes, or too few rows in the mapped classes.
        """
        rows = known.rows
        if known.budget.rows(len(rows)) == 0:
            return Poisoned(data=rows, mask=known.mask(torch.zeros(0, dtype=torch.int64)), goal=Degrade())
        new_K = self._confused(known) if self.mapping == "surrogate" else published(self.mapping, rows.num_classes)
        chosen = known.choose(new_K[rows.labels] != KEPT, rng.child("rows"))
        return Poisoned(data=rows.edit(chosen, labels=new_K[rows.labels[chosen]]), mask=known.mask(chosen), goal=Degrade())

    def _confused(self, known: Known) -> Tensor:
        return most_confused(known.fit(known.rows).scores(known.rows.inputs), known.rows.labels)


def published(name: str, num_classes: int) -> Tensor:
    """Return (K,) int64, the new label of each class, KEPT where there is none.

    Raises:
        ConfigError: the map is for another number of classes.
    """
    if num_classes != 10:
        raise ConfigError(f"attack.data.mapping={name} is a map of 10 classes, and the task has {num_classes}; set attack.data.mapping=surrogate")
    new_K = torch.full((num_classes,), KEPT)
    for old, new in PUBLISHED[name].items():
        new_K[old] = new
    return new_K


def most_confused(scores_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return (K,) int64: for each class the other class with the largest mean probability over its rows; KEPT for a class without rows."""
    own = torch.nn.functional.one_hot(labels_N, scores_NK.shape[1]).double()
    means_KK = own.T @ scores_NK.double().softmax(1)
    means_KK.fill_diagonal_(-1.0)  # below every probability
    return torch.where(own.sum(0) > 0, means_KK.argmax(1), KEPT)
