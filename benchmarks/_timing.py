"""How two ways of doing the same work are timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Costs(NamedTuple):
    """Seconds of each repetition."""

    ours: tuple[float, ...]
    alternative: tuple[float, ...]


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(ours: Callable[[], object], alternative: Callable[[], object], *, repeats: int, warm_up: bool = True) -> Costs:
    """Time both, one after the other, `repeats` times; a first pass of each may not count."""
    if warm_up:
        ours(), alternative()
    pairs = [(seconds(ours), seconds(alternative)) for _ in range(repeats)]
    return Costs(ours=tuple(pair[0] for pair in pairs), alternative=tuple(pair[1] for pair in pairs))
