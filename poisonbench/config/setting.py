"""The setting of a run: its configuration, the folders that it writes to, and the classes that it may build. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.config.build import check_targets
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.core.plugins import HOME

if TYPE_CHECKING:
    from poisonbench.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders that a run writes to.

    Args:
        results: holds `records/*.json` and `store/`.
        published: `results/records` of the clone, for records that `publish=true` adds to the repository.
    """

    results: Path
    published: Path

    @classmethod
    def of(cls, results_dir: object) -> Places:
        """Return the folders for a value of `results_dir`; for None the default, which is `results/local` in a clone.

        Raises:
            ConfigError: the folder cannot be written.
        """
        in_clone = Path.cwd() == HOME.resolve() and (HOME / "pyproject.toml").is_file()
        default = Path("results/local") if in_clone else Path("results")
        results = default if results_dir is None else Path(os.path.expandvars(str(results_dir))).expanduser()
        if not _writable(results.absolute()):
            raise ConfigError(f"results_dir={results}: cannot be written; name a folder that can")
        return cls(results=results, published=Path("results/records"))


def _writable(folder: Path) -> bool:
    """Return whether a folder can be written, or created in the nearest folder above it that exists."""
    try:
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError:  # a folder on the way that this user cannot search
        return False
    return nearest.is_dir() and os.access(nearest, os.W_OK)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The composed configuration of one run, checked, with all that does not depend on a method.

    Args:
        tree: the configuration as plain values.
        places: the folders that the run writes to.
        trusted: prefixes of the class paths that may be built.
    """

    tree: Mapping[str, object]
    places: Places
    trusted: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str], *, results_dir: str | Path | None = None) -> Setting:
        """Compose the words of a command line.

        Args:
            words: such as "attack=backdoor", "seed=3".
            results_dir: the folder of results, in place of the one that the words name.

        Raises:
            ConfigError: one sentence on the first mistake, such as a class outside the trusted prefixes or a folder that cannot be written.
        """
        tree = tree_of(words)
        trusted = check_targets(tree, str(tree["trust"]))
        return cls(tree=tree, places=Places.of(results_dir or tree["results_dir"]), trusted=trusted)

    @cached_property
    def store(self) -> Store:
        """The store of the results folder."""
        from poisonbench.storage.store import Store

        return Store(self.places.results / "store", self.trusted, alone="RANK" in os.environ)  # torchrun's processes train one victim together
