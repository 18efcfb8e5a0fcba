"""Coverage of intervals and ranks where the truth is known: `python -m tests.reliability.intervals` writes the tables of docs/reliability.md.

Each seed of a cell draws the probability that an attack succeeds, then tests shared test rows that are not equally easy. Our intervals are compared
with the earlier intervals and ranks: Student's t over seeds, and differences paired by seed with Bonferroni's correction over pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

from poisonbench.stats import mean_bounds, smallest_gap

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- intervals -->\n", "<!-- end intervals -->"
MEANS = (0.003, 0.05, 0.5, 0.95, 0.999)
SEEDS = (3, 5, 10)
CELLS = (8, 15, 30)
PROBES = 324
EASE = np.linspace(-1, 1, PROBES)  # of the test rows, which all seeds share
EFFECTS = {"none": 0.0, "standard deviation .02": 0.02, "standard deviation .1": 0.1, "all or nothing": None}

Floats = NDArray[np.float64]
Bounds = Callable[[Floats, float], tuple[Floats, Floats]]


@cache
def centre(mean: float, deviation: float) -> float:
    """Return the mean of the normal distribution whose values, clipped to [0, 1], have the mean asked for."""

    def clipped(middle: float) -> float:
        low, high = (0 - middle) / deviation, (1 - middle) / deviation
        inside = middle * (norm.cdf(high) - norm.cdf(low)) + deviation * (norm.pdf(low) - norm.pdf(high))
        return float(inside + norm.sf(high) - mean)

    return float(brentq(clipped, -10 * deviation - 1, 10 * deviation + 2))


def levels(effect: float | None, mean: float, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Return the chance of success of each seed; their expectation is `mean`."""
    if effect is None:
        return (rng.random(shape) < mean).astype(np.float64)
    if effect == 0:
        return np.full(shape, mean)
    return np.clip(rng.normal(centre(mean, effect), effect, shape), 0, 1)


def samples(effect: float | None, mean: float, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Return the ASR of each seed over the shared rows: row j succeeds with s + s (1 - s) e_j, whose mean over rows is s."""
    chance = levels(effect, mean, shape, rng).reshape(-1, 1)
    found = [
        (rng.random((len(part), PROBES), dtype=np.float32) < part + part * (1 - part) * EASE).mean(1)
        for part in np.array_split(chance, len(chance) // 5000 + 1)
    ]
    return np.concatenate(found).reshape(shape)


def student(samples_Bn: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the ends of Student's t interval, as printed before."""
    count = samples_Bn.shape[1]
    half = t.ppf((1 + level) / 2, count - 1) * samples_Bn.std(1, ddof=1) / count**0.5
    return samples_Bn.mean(1) - half, samples_Bn.mean(1) + half


def apart(boards_Bcn: Floats) -> NDArray[np.bool_]:
    """Return (B,) whether any two cells of a board are separated: their intervals, at the level that all share, do not overlap."""
    boards, cells, seeds = boards_Bcn.shape
    low, high = (ends.reshape(boards, cells) for ends in mean_bounds(boards_Bcn.reshape(-1, seeds), 1 - 0.05 / cells))
    return low.max(1) > high.min(1)


def apart_by_pairs(boards_Bcn: Floats) -> NDArray[np.bool_]:
    """Return the same as ranks were made before: by t intervals of differences paired by seed."""
    pairs = list(itertools.combinations(range(boards_Bcn.shape[1]), 2))
    found = np.zeros(len(boards_Bcn), dtype=bool)
    for one, other in pairs:
        low, high = student(boards_Bcn[:, one] - boards_Bcn[:, other], 1 - 0.05 / len(pairs))
        found |= (low > 0) | (high < 0)
    return found


def covered(bounds: Bounds, effect: float | None, seeds: int, count: int) -> list[float]:
    """Return, at each mean, how often the 95 % interval holds it."""
    rng, shares = np.random.default_rng(0), []
    for mean in MEANS:
        low, high = bounds(samples(effect, mean, (count, seeds), rng), 0.95)
        shares.append(float(((low <= mean) & (mean <= high)).mean()))
    return shares


def width(effect: float | None, seeds: int, count: int) -> float:
    """Return the median width of the interval at a mean of .5."""
    low, high = mean_bounds(samples(effect, 0.5, (count, seeds), np.random.default_rng(2)))
    return float(np.median(high - low))


def separated(judge: Callable[[Floats], NDArray[np.bool_]], effect: float | None, seeds: int, count: int) -> list[float]:
    """Return, by 8, 15, 30 equal cells, the share of boards with any separation, at the worst of the means."""
    rng, worst = np.random.default_rng(1), [0.0] * len(CELLS)
    for mean in MEANS:
        boards = samples(effect, mean, (count, max(CELLS), seeds), rng)
        worst = [max(before, float(judge(boards[:, :cells]).mean())) for before, cells in zip(worst, CELLS, strict=True)]
    return worst


def block(count: int, boards: int) -> str:
    """Return the tables as Markdown."""
    lines = [
        f"How often a 95 % interval contains the true mean, in per cent; {count:,} samples each, {PROBES} shared test rows."
        " Our interval, and in brackets Student's t.",
        "",
        f"| effect of the seed | seeds | {' | '.join(f'mean {mean:g}' for mean in MEANS)} | median width at .5 |",
        f"|{' --- |' * (3 + len(MEANS))}",
    ]
    for (name, effect), seeds in itertools.product(EFFECTS.items(), SEEDS):
        shares = zip(*(covered(bounds, effect, seeds, count) for bounds in (mean_bounds, student)), strict=True)
        told = " | ".join(f"{100 * ours:.1f} ({100 * theirs:.1f})" for ours, theirs in shares)
        lines.append(f"| {name} | {seeds} | {told} | {width(effect, seeds, 1000):.2f} |")
    lines += [
        "",
        f"How often a leaderboard of equal cells separates any two of them, in per cent; {boards:,} leaderboards each, at the worst of the five means. Our"
        " ranks, and in brackets the paired t differences that were used before. The ranks promise at most 5 %.",
        "",
        f"| effect of the seed | seeds | {' | '.join(f'{cells} cells' for cells in CELLS)} |",
        f"|{' --- |' * (2 + len(CELLS))}",
    ]
    for (name, effect), seeds in itertools.product(EFFECTS.items(), SEEDS):
        shares = zip(*(separated(judge, effect, seeds, boards) for judge in (apart, apart_by_pairs)), strict=True)
        lines.append(f"| {name} | {seeds} | {' | '.join(f'{100 * ours:.1f} ({100 * theirs:.1f})' for ours, theirs in shares)} |")
    lines += [
        "",
        "The smallest gap between two means, in points, that ranks can separate if all seeds of a cell give the same value:",
        "",
        f"| cells | {' | '.join(f'{seeds} seeds' for seeds in (*SEEDS, 20, 50))} |",
        f"|{' --- |' * (3 + len(SEEDS))}",
    ]
    for cells in (2, *CELLS):
        gaps = [smallest_gap(cells, seeds) for seeds in (*SEEDS, 20, 50)]
        lines.append(f"| {cells} | {' | '.join('none' if gap is None else f'{100 * gap:.0f}' for gap in gaps)} |")
    return "\n".join(lines) + "\n"


def write(count: int = 4000, boards: int = 200) -> None:
    """Write the tables into the page."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}{block(count, boards)}{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    write()
