"""`list [GROUP]`: what can be chosen. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from poisonbench.commands.compose import CONFIGS, options
from poisonbench.core.errors import ConfigError, meant


def main(words: Sequence[str]) -> int:
    """Print the options of one group, or of all.

    Raises:
        ConfigError: a group that does not exist.
    """
    groups = sorted(entry.name for entry in CONFIGS.iterdir() if entry.is_dir() and not entry.name.startswith("_"))
    for word in words:
        if word not in groups:
            raise ConfigError(f"list {word}: no such group; {meant(word, groups)}")
    console = Console()
    for group in words or groups:
        console.print(f"{group}: {', '.join(options(group))}", markup=False, highlight=False, soft_wrap=True)
    return 0
