"""Timing of two ways to do the same work."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Costs(NamedTuple):
    """Wall-clock and processor seconds of each repetition, including ended child processes, but not workers, which a separate server process starts."""

    ours: tuple[float, ...]
    alternative: tuple[float, ...]
    ours_cpu: tuple[float, ...]
    alternative_cpu: tuple[float, ...]

    @property
    def cpu(self) -> dict[str, float]:
        """Medians of the processor seconds and their ratio, as facts of a comparison; they are more reliable on a busy machine."""
        ours, alternative = statistics.median(self.ours_cpu), statistics.median(self.alternative_cpu)
        return {"ours_cpu_s": ours, "alternative_cpu_s": alternative, **({"cpu_ratio": alternative / ours} if ours else {})}


class Time(NamedTuple):
    """Duration of work, in seconds."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Time:
    """Return the wall-clock and processor seconds that `work` takes."""
    wall, cpu = time.perf_counter(), _processor()
    work()
    return Time(time.perf_counter() - wall, _processor() - cpu)


def _processor() -> float:
    """Return the processor seconds that this process and its ended children have used so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds that `work` takes."""
    return timed(work).wall


def in_turns(ours: Callable[[], object], alternative: Callable[[], object], *, repeats: int, warm_up: bool = True) -> Costs:
    """Time both, one after the other, `repeats` times; with `warm_up`, a first pass of each does not count."""
    if warm_up:
        ours(), alternative()
    pairs = [(timed(ours), timed(alternative)) for _ in range(repeats)]
    return costs_of([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def costs_of(ours: Sequence[Time], alternative: Sequence[Time]) -> Costs:
    """Return the costs of repetitions."""
    walls, processor = ([tuple(getattr(each, part) for each in side) for side in (ours, alternative)] for part in ("wall", "cpu"))
    return Costs(*walls, *processor)
