"""Filters that compare rows within each class: the loop over the classes, and which classes are too small to judge.

Shape letters: N rows, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Sanitizer, Verdict
from poisonbench.core.learner import Victim
from poisonbench.core.progress import track
from poisonbench.core.proof import parts
from poisonbench.core.rng import Key

CHANCE = 0.05
LEAST = math.ceil(1 / CHANCE)
REASON = f"in a class of fewer than {LEAST} clean rows each row is the most suspicious one with a probability of more than {100 * CHANCE:.0f} %"


def by_class(data: Dataset) -> Iterator[tuple[int, Tensor]]:
    """Yield each label that has rows, and their ascending positions; report progress after each class."""
    counts = data.labels.bincount()
    rows = data.labels.argsort(stable=True).split(counts[counts > 0].tolist())
    labels = counts.nonzero()[:, 0].tolist()
    for place in track(len(labels), "classes"):
        yield labels[place], rows[place]


def judges_classes(sanitizer: Sanitizer) -> bool:
    """Return whether a filter, or one nested in it, declares with BY_CLASS that it compares rows only within their class."""
    return any(getattr(part, "BY_CLASS", False) for part in parts(sanitizer))


def judgeable(data: Dataset) -> Tensor:
    """Return (N,) bool, the rows whose class has at least LEAST rows."""
    return data.labels.bincount(minlength=data.num_classes)[data.labels] >= LEAST


@dataclass(frozen=True, kw_only=True)
class LargeClasses:
    """A filter that judges class by class, limited to the classes that are large enough: it keeps the rows of all others.

    The limit is that of a rank test: among n clean rows each is the most suspicious with probability 1/n, so a class of n < 20 rows
    has no significant row at 5 %. Features show the same: two rows have all their variance in one direction, so spectral
    signatures would suspect the smallest class. Small classes are therefore judged separately, only to order their rows, and no
    large class is compared with them. Models that the filter trains still learn from the small classes; they are the same models
    that every other filter receives.

    Args:
        filter: judges each class by itself.
    """

    VERSION: ClassVar[int] = 1
    filter: Sanitizer

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict | None:
        """Judge the large classes; order the rows within the small ones."""
        large = judgeable(data)
        keep, suspicion, evidence = torch.ones(len(data), dtype=torch.bool), torch.zeros(len(data)), dict[str, Tensor]()
        for part in (large, ~large):
            if part.any():
                verdict = self.filter.judge(data.take(part), beside(data.take(~part), part, means), rng)
                if verdict is None:
                    return None
                keep[part], suspicion[part] = verdict.keep | ~large[part], verdict.suspicion
                for name, column in verdict.evidence.items():
                    evidence.setdefault(name, torch.full_like(data.labels, -1))[part] = column
        return Verdict(keep=keep, suspicion=suspicion, evidence=evidence)


def beside(others: Dataset, part: Tensor, means: Means) -> Means:
    """Return the means of a filter that judges only `part` (N,) of the rows: its models also learn from the `others`, in the order of ids."""

    def fit(data: Dataset, *, draw: int = 0) -> Victim:
        whole = data.append(others)
        return means.fit(whole.take(whole.ids.argsort(stable=True)), draw=draw)

    return dataclasses.replace(means, fit=fit, truth=means.truth[part] if len(means.truth) else means.truth)


def held_to_large(sanitizer: Sanitizer, data: Dataset) -> Sanitizer:
    """Return the filter unchanged where every class is large enough or it does not judge by class; else limit it to the large classes."""
    return LargeClasses(filter=sanitizer) if judges_classes(sanitizer) and not judgeable(data).all() else sanitizer
