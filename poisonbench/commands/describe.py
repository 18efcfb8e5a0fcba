"""`describe NAME...`: what a method does, its source, its fields and their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from poisonbench.assemble import adopt_own_packages
from poisonbench.build import check_targets
from poisonbench.commands.compose import CONFIGS, options, tree_of
from poisonbench.core.errors import ConfigError, meant
from poisonbench.core.plugins import find_class


def main(words: Sequence[str]) -> int:
    """Print each named option.

    Raises:
        ConfigError: no name, or one that no group offers.
    """
    groups = sorted(entry.name for entry in CONFIGS.iterdir() if entry.is_dir() and entry.name != "experiment")
    known = {name: group for group in groups for name in options(group) if name not in ("none", "default")}
    if not words:
        raise ConfigError(f"describe NAME: {meant('', known)}")
    adopt_own_packages()
    console = Console()
    for word in words:
        if word not in known:
            raise ConfigError(f"describe {word}: no such option; {meant(word, known)}")
        tree = tree_of([f"{known[word]}={word}"])
        allowed = check_targets(tree, "")
        for where, node in _plugins(tree[known[word]], known[word]):
            kind = find_class(str(node["_target_"]), allowed)
            fields = {name: value for name, value in node.items() if name != "_target_" and not isinstance(value, Mapping)}
            console.print(f"{known[word]}={word}: {kind.__name__}\n", style="bold", markup=False, highlight=False)
            console.print(inspect.getdoc(kind) or "", markup=False, highlight=False, soft_wrap=True)
            console.print(
                "\n" + "\n".join(f"  {where}.{name}={'null' if value is None else value}" for name, value in fields.items()), markup=False, highlight=False
            )
    return 0


def _plugins(node: object, where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the plugins of a node, those inside a plan's slots rather than the plan."""
    if not isinstance(node, Mapping):
        return
    inner = [(f"{where}.{name}", item) for name, item in node.items() if isinstance(item, Mapping) and "_target_" in item]
    if str(node["_target_"]).startswith(("poisonbench.core.attack.", "poisonbench.core.defense.")):
        for place, item in inner:
            yield from _plugins(item, place)
    else:
        yield where, node
