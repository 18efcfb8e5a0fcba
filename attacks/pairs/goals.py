"""What attacks on pictures with captions have in common: the captions that they write, and the figures of their goals.

Shape letters: R rows, L words of a caption, M test rows, C distinct captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.abilities import Paired
from poisonbench.core.data import Dataset
from poisonbench.core.goals import Goal, NoGoal, Probe
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.forms.prompts import CAPTION, prompts_of
from poisonbench.forms.tokens import PADDING

NEAREST = 10  # captions, or pictures, of a retrieval


def written(rows: Dataset, labels: Tensor, draws: Tensor) -> Tensor:
    """Return (R, L) int64, for each class in (R,) `labels` one of the captions that name it; (R,) `draws` in [0, 1) choose it.

    Raises:
        Incompatible: rows that are no pictures with captions.
    """
    return prompts_of(rows, "this attack").drawn(labels, draws, rows.extra[CAPTION].shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class OfPairs(NoGoal):
    """A goal about the answers, with the retrieval of captions and pictures measured beside it.

    Args:
        inner: the goal.
    """

    VERSION: ClassVar[int] = 1
    inner: Goal

    def probe(self, test: Dataset) -> Probe:
        """Return that of the goal."""
        return self.inner.probe(test)

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return the figures of the goal and, of a model of pictures and captions, those of `recalls`."""
        return {**self.inner.measure(victim, test, rng), **recalls(victim, test)}

    def compare(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> Mapping[str, float]:
        """Return that of the goal."""
        return self.inner.compare(figures, baseline)


def recalls(victim: Victim, test: Dataset) -> dict[str, float]:
    """Return how often retrieval among the test rows finds the right one within the 10 nearest; empty where there are no captions or embeddings.

    "caption_recall": the share of the pictures whose own caption is among the 10 nearest of the distinct captions. "picture_recall": the share of the
    distinct captions with a picture of their own among the 10 nearest pictures. Captions of one class fit its pictures equally well, so neither is 1.
    """
    test = test.take((test.extra[CAPTION] != PADDING).any(1))
    if not isinstance(victim, Paired) or not len(test):
        return {}
    pictures, captions = victim.embedded(test)
    distinct, of = test.extra[CAPTION].unique(dim=0, return_inverse=True)
    first = torch.stack([(of == number).nonzero()[0, 0] for number in range(len(distinct))])
    similar_MC = pictures @ captions[first].T
    own_MC = of[:, None] == torch.arange(len(distinct))
    found = own_MC.gather(1, similar_MC.topk(min(NEAREST, len(distinct)), dim=1).indices).any(1)
    seen = own_MC.T.gather(1, similar_MC.T.topk(min(NEAREST, len(test)), dim=1).indices).any(1)
    return {"caption_recall": float(found.double().mean()), "picture_recall": float(seen.double().mean())}
