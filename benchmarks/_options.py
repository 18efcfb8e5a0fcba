"""The options of a benchmark on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `python -m benchmarks` beside the names.

    Args:
        data: a folder that contains cifar10 and mnist.
        commit: the older version to compare with.
        quick: a small size, for benchmarks whose full size takes gigabytes.
    """

    data: Path | None = None
    commit: str = "HEAD^"
    quick: bool = False
