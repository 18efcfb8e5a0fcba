"""Intervals for figures over seeds. Imports no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % interval; no half-width for fewer than two values."""

    mean: float
    half: float | None


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean and the half-width of its 95 % Student-t interval.

    A percentile bootstrap over three seeds covers about 74 % where it says 95 %; Student's t keeps its word.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None)
    return Interval(mean, _quantile(len(values) - 1) * statistics.stdev(values, mean) / math.sqrt(len(values)))


@lru_cache(maxsize=1024)
def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson, JASA 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
