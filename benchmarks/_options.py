"""What a benchmark is asked for on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the words of `python -m benchmarks` say beside the names.

    Args:
        data: a folder with cifar10 and mnist in it.
        commit: of an older version to compare with.
    """

    data: Path | None = None
    commit: str = "HEAD^"
