"""`store list` and `store prune days=30`: list the values in the store, or remove old ones. Imports no torch."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from poisonbench.commands.usage import RESULTS_DIR, Usage
from poisonbench.config.setting import Setting
from poisonbench.core.errors import ConfigError
from poisonbench.core.files import sealed
from poisonbench.storage import lease

USAGE = Usage(
    call="store list, or store prune days=30",
    does="List what the store of trained models and decoded pictures contains, or remove old values and the leftovers of killed processes.",
    options={"list": "the values by their kind", "prune days=DAYS": "remove values that are at least so many days old", **RESULTS_DIR},
)
DAY = 86_400.0


def main(words: Sequence[str]) -> int:
    """List the values of the store by their kind, or remove old values and the leftovers of killed processes.

    Raises:
        ConfigError: other words.
    """
    local = [word for word in words if word.startswith("results_dir=")]
    root = Setting.of(local).places.results / "store"
    match [word for word in words if word not in local]:
        case ["list"] | []:
            Console().print(_listed(root))
        case ["prune", word] if word.startswith("days="):
            outcome = _pruned(root, _days(word.removeprefix("days=")))
            Console().print(outcome, markup=False, highlight=False, soft_wrap=True)
        case _:
            raise ConfigError(f"{USAGE.call}: {USAGE.does}")
    return 0


def _days(word: str) -> float:
    try:
        days = float(word)
    except ValueError:
        days = -1.0
    if not days >= 0:
        raise ConfigError(f"days={word}: give a number of 0 or more; {USAGE.call}")
    return days


def _listed(root: Path) -> Table:
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.glob("*.safetensors")):
        kinds[path.stem.rpartition("-")[0]].append(path)
    table = Table(title=str(root), title_justify="left")
    for column in ("kind", "values", "MiB", "made in, s"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind, paths in kinds.items():
        table.add_row(kind, str(len(paths)), f"{sum(path.stat().st_size for path in paths) / 2**20:.1f}", f"{sum(map(_seconds, paths)):.0f}")
    return table


def _seconds(path: Path) -> float:
    """Return the seconds that a value took; 0 if its seal is missing or damaged, because the value is then computed again."""
    try:
        return sealed(path)[1]
    except (OSError, ValueError):
        return 0.0


def _pruned(root: Path, days: float) -> str:
    """Remove values that are at least so many days old, expired leases, and temporary files that are a day old."""
    now, freed, values = time.time(), 0, 0
    for path in root.glob("*.safetensors"):
        size, age = path.stat().st_size, now - path.stat().st_mtime
        if age >= days * DAY and lease.holder(path.with_suffix(".lease")) is None:
            path.with_suffix(".sha256").unlink(missing_ok=True)  # first: a value without its seal is computed again
            path.unlink(missing_ok=True)
            freed, values = freed + size, values + 1
    for path in root.glob("*.lease"):
        if lease.holder(path) is None:
            path.unlink(missing_ok=True)
    for path in root.glob(".*.tmp"):
        if now - os.stat(path).st_mtime >= DAY:
            path.unlink(missing_ok=True)
    return f"{root}: {values} values removed, {freed / 2**20:.1f} MiB free"
