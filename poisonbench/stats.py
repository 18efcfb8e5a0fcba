"""Intervals for figures over seeds and over targets, differences and ranks. Imports no torch."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % interval; no half-width for fewer than two values."""

    mean: float
    half: float | None


def over_seeds(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean and the half-width of its Student-t interval, 95 % unless another level is asked for.

    A percentile bootstrap over three seeds covers about 74 % where it says 95 %; Student's t keeps its word.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None)
    return Interval(mean, _quantile(len(values) - 1, level) * statistics.stdev(values, mean) / math.sqrt(len(values)))


@lru_cache(maxsize=1024)
def _quantile(freedom: int, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson, JASA 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a proportion (Clopper and Pearson, Biometrika 1934); it covers at least that."""
    from scipy.stats import binomtest

    interval = binomtest(hits, trials).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float], *, level: float = 0.95) -> Interval:
    """Return the mean of ours minus theirs over the seeds that both have, with its Student-t interval.

    Two cells of one seed share their split, their poison and often their victim: what the seed does to both drops out.

    Args:
        ours: a figure by seed.
        theirs: the same figure of another cell.
        level: of the interval.

    Raises:
        ValueError: no seed in common.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("no seed in common")
    return over_seeds([ours[seed] - theirs[seed] for seed in shared], level)


def ranks(figures: Mapping[str, Mapping[int, float]]) -> dict[str, tuple[int, int]]:
    """Return the 95 % rank interval of each cell, 1 for the smallest figure; all of them hold at once.

    Source: Al Mohamad, Goeman, van Zwet, "Simultaneous confidence intervals for ranks", Biometrical Journal 2022: a cell
    ranks behind every one that is significantly smaller, ahead of every one that is significantly larger. Paired differences by seed,
    Bonferroni over all pairs. Cells of one seed are told apart from nobody.

    Args:
        figures: of each cell, by seed.
    """
    names = list(figures)
    pairs = max(1, math.comb(len(names), 2))
    behind, ahead = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for one, other in itertools.combinations(names, 2):
        mean, half = paired(figures[one], figures[other], level=1 - 0.05 / pairs) if figures[one].keys() & figures[other].keys() else Interval(0.0, None)
        if half is not None and abs(mean) > half:
            smaller, larger = (one, other) if mean < 0 else (other, one)
            ahead[smaller] += 1
            behind[larger] += 1
    return {name: (1 + behind[name], len(names) - ahead[name]) for name in names}


def worst(figures: Mapping[str, float], *, largest: bool) -> tuple[str, float]:
    """Return the name and the figure of the worst case, such as the attack that a defense holds least.

    Args:
        figures: one a case, at least one.
        largest: whether a large figure is bad, as ASR is.
    """
    name = (max if largest else min)(figures, key=lambda case: figures[case])
    return name, figures[name]
