"""The random filter: a control that removes as many rows of each class as another filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Defense, Means, Verdict, checked
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class RandomDrop:
    """Remove as many rows of each class as another filter does, chosen at random.

    Source: none. A filter that is no better than this control has found nothing: its effect is that of training on fewer rows.

    Args:
        like: the defense whose filter is matched; on the command line `defense@defense.sanitize.like=NAME`.
    """

    VERSION: ClassVar[int] = 1
    like: Defense

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Run the other filter and drop as many random rows of each class as it does.

        Raises:
            ConfigError: `like` has no filter.
        """
        verdict = checked(self.like.sanitize.judge(data, means, rng), data, self.like.sanitize)
        if verdict is None:
            raise ConfigError("defense=random_drop matches a filter; name one with defense@defense.sanitize.like=spectral")
        suspicion = rng.child("random_drop").per_row(data.ids)[:, 0].float()
        keep = torch.ones(len(data), dtype=torch.bool)
        for label in data.labels.unique().tolist():
            rows = (data.labels == label).nonzero()[:, 0]
            count = int((~verdict.keep[rows]).sum())
            keep[rows[suspicion[rows].argsort(descending=True, stable=True)[:count]]] = False
        return Verdict(keep=keep, suspicion=suspicion)
