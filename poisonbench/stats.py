"""Ranges and intervals of figures over seeds and over targets, and ranks. Imports no torch.

Shape letters: B samples, n values in each.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HALVINGS = 45  # of the search for a bound: 3e-14


class Spread(NamedTuple):
    """A mean over seeds, and the smallest and the largest of them: a range, not an interval."""

    mean: float
    smallest: float
    largest: float


def over_seeds(values: Sequence[float]) -> Spread:
    """Return the mean of at least one value, the smallest and the largest."""
    smallest, largest = min(values), max(values)
    return Spread(min(max(statistics.fmean(values), smallest), largest), smallest, largest)  # a mean of equal values may be off by its last bit


def mean_bounds(samples_Bn: NDArray[np.float64], level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (B,) lower and (B,) upper ends of an interval for the mean of the distribution behind each sample.

    Source: Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable", Mathematical
    Methods of Statistics 2005; Learned-Miller and Thomas, arXiv 1905.06208; Phan, Thomas, Learned-Miller, "Towards practical mean bounds
    for small samples", ICML 2021. The lower end is the (1 - level) / 2 quantile of the sum of x_(i) D_i, where x_(0) = 0, x_(1) <= ... <= x_(n)
    are the values and D is uniform on the simplex of n + 1 weights; the upper end is computed in the same way from 1 - x. No shape of the
    distribution is assumed. Where values are 0 or 1 it is Clopper and Pearson's interval, whose coverage is at least `level`. For other
    values that coverage is a conjecture without a known counterexample; docs/reliability.md has a simulation.

    Args:
        samples_Bn: independent values in [0, 1], n >= 1 of each distribution.
        level: of the interval; each end is wrong with probability at most (1 - level) / 2.
    """
    import numpy as np

    ends = [_quantile(np.sort(side, axis=1), (1 - level) / 2) for side in (samples_Bn, 1 - samples_Bn)]
    return ends[0], 1 - ends[1]


def _quantile(sorted_Bn: NDArray[np.float64], chance: float) -> NDArray[np.float64]:
    """Return (B,) the quantile of the weighted sum of 0 and the values, by bisection."""
    import numpy as np

    knots = np.concatenate([np.zeros((len(sorted_Bn), 1)), sorted_Bn], axis=1)
    low, high = np.zeros(len(knots)), np.ones(len(knots))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = _beyond(knots, middle[:, None]) >= 1 - chance
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


def _beyond(knots: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (B,) the probability that the sorted knots, with weights drawn uniformly from the simplex, sum to more than `at`.

    It is the divided difference of (x - at)_+^n over the n + 1 knots, computed by de Boor's recursion. It only averages, so no digits cancel.
    """
    import numpy as np

    tails = (knots > at).astype(np.float64)
    for order in range(1, knots.shape[1]):
        left, right = knots[:, :-order], knots[:, order:]
        share = np.clip((at - left) / np.maximum(right - left, np.finfo(np.float64).tiny), 0, 1)
        tails = share * tails[:, :-1] + (1 - share) * tails[:, 1:]
    return tails[:, 0]


def intervals(samples: Sequence[Sequence[float]], level: float = 0.95) -> list[tuple[float, float] | None]:
    """Return the interval of `mean_bounds` for each sample of one value per seed; None where a value is not a proportion.

    Seeds are independent draws of the poison, the initialisation and the order of rows. All of them share the test set, so an
    interval describes other seeds on the same test rows, not other test rows.
    """
    import numpy as np

    asked = [tuple(sorted(values)) for values in samples]
    found: dict[tuple[float, ...], tuple[float, float]] = {}
    for size in {len(values) for values in asked if values}:
        alike = sorted({values for values in asked if len(values) == size and all(0 <= value <= 1 for value in values)})
        if alike:
            lows, highs = mean_bounds(np.array(alike, dtype=np.float64), level)
            found |= zip(alike, zip(lows.tolist(), highs.tolist(), strict=True), strict=True)
    return [found.get(values) for values in asked]


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a proportion (Clopper and Pearson, Biometrika 1934); its coverage is at least 95 %."""
    from scipy.stats import binomtest

    found = binomtest(hits, trials).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def ranks(figures: Mapping[str, Mapping[int, float]], level: float = 0.95) -> dict[str, tuple[int, int]]:
    """Return the rank interval of each cell, 1 for the smallest mean; all intervals hold simultaneously.

    Source: Al Mohamad, Goeman, van Zwet, "Simultaneous confidence intervals for ranks", Biometrical Journal 2022: a cell ranks behind every cell
    that is certainly smaller, and ahead of every cell that is certainly larger. Here two cells differ certainly where the intervals of their
    means do not overlap, each at 1 - (1 - level) / cells (Bonferroni), whatever seeds the cells share. Differences paired by seed would need
    more seeds: the error would be divided among all pairs, and there are more pairs than cells.

    Args:
        figures: of each cell, in [0, 1], by seed.
        level: confidence level of all ranks together.
    """
    each = 1 - (1 - level) / max(1, len(figures))
    found = zip(figures, intervals([list(values.values()) for values in figures.values()], each), strict=True)
    ends = {name: ends or (0.0, 1.0) for name, ends in found}  # nothing is certain about values that are not proportions
    behind = {name: sum(high < ends[name][0] for _, high in ends.values()) for name in ends}
    ahead = {name: sum(low > ends[name][1] for low, _ in ends.values()) for name in ends}
    return {name: (1 + behind[name], len(ends) - ahead[name]) for name in ends}


def smallest_gap(cells: int, seeds: int, level: float = 0.95) -> float | None:
    """Return the gap between two means above which `ranks` can separate them, if all seeds of a cell agree; None if there is no such gap.

    With q the lower end for values that are all 1, values that are all b have the lower end b q, values that are all a have the upper end
    1 - (1 - a) q: the first lies above the second where (b - a) q > 1 - q.
    """
    ((least, _),) = filter(None, intervals([[1.0] * seeds], 1 - (1 - level) / cells))
    gap = (1 - least) / least
    return gap if gap < 1 else None


def worst(figures: Mapping[str, float], *, largest: bool) -> tuple[str, float]:
    """Return the name and the figure of the worst case, such as the attack that a defense withstands least.

    Args:
        figures: one per case, at least one.
        largest: whether a large figure is bad, as ASR is.
    """
    name = (max if largest else min)(figures, key=lambda case: figures[case])
    return name, figures[name]
