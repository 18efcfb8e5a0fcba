"""The known commands, groups, options and keys, and suggestions for an unknown one. Imports no torch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from poisonbench.core.errors import meant
from poisonbench.core.trees import value_at

CONFIGS = Path(__file__).parent.parent.parent / "configs"
CLOSE, LISTED = 0.75, 3  # least similarity of two names in different places; options that a message names at most
GLOBAL = "# @package _global_"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # all files in 0.02 s with the one in C, which not every PyYAML has, and in 0.15 s otherwise


def options(group: str) -> list[str]:
    """Return the names of a group's options, sorted."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def groups() -> list[str]:
    """Return the groups, sorted."""
    with os.scandir(CONFIGS) as entries:  # finds folders without a system call for each entry; this runs for every word
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("_"))


def commands() -> list[str]:
    """Return the commands, sorted: the modules of `poisonbench.commands` that have a `main`."""
    return sorted(path.stem for path in (CONFIGS.parent / "poisonbench" / "commands").glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8"))


def option_meant(word: str) -> str:
    """Return GROUP=OPTION for the name of an option without its group; empty for other words."""
    return next((f"{group}={word}" for group in ("attack", "defense", *groups()) if word in options(group)), "")


def key_meant(path: str, tree: Mapping[str, object]) -> str:
    """Return advice on an unknown key: the same name elsewhere, a similar name beside it, a key of another option, or all known keys.

    Args:
        path: the unknown key, such as "task.rot".
        tree: the configuration that does not have it.
    """
    parent, _, name = path.rpartition(".")
    beside = [str(key) for key in node if key != "_target_"] if isinstance(node := value_at(tree, parent.split(".") if parent else ()), Mapping) else []
    here, elsewhere = {key: list[str]() for key in keys(tree)}, _offered()
    if path in groups():
        place = next((key for key in keys(tree, nodes=True) if key.endswith(f".{path}")), "")
        return f"did you mean {path}@{place}?" if place else f"no part of this run uses it; it is used by {_some(_users(path))}"
    if source := next((key for key in here if path in here and path.endswith(f".{key}")), ""):
        return f"its value is copied from {source}; set that key"
    if path in elsewhere:
        return f"it is a key of {_some(elsewhere[path])}"
    if key := _nearest(path, here, 1.0):
        return f"did you mean {key}?"
    exact = _nearest(path, elsewhere, 1.0)  # the same name in another place; closer than a similar name in this place
    if not exact and difflib.get_close_matches(name, beside, n=1, cutoff=0.6):
        return meant(name, beside)
    for known, cutoff in ((elsewhere, 1.0), (here, CLOSE), (elsewhere, CLOSE)):
        if key := _nearest(path, known, cutoff):
            return f"did you mean {key}?" + (f" it is a key of {_some(known[key])}" if known[key] else "")
    return f"known: {', '.join(sorted(beside or map(str, tree)))}"


def _some(words: list[str]) -> str:
    return ", ".join(words[:LISTED] + ["..."] * (len(words) > LISTED))


def _users(group: str) -> list[str]:
    """Return the options of other groups that use an option of this group."""
    return [f"{path.parent.name}={path.stem}" for path in sorted(CONFIGS.glob("*/*.yaml")) if f"/{group}@" in path.read_text(encoding="utf-8")]


def keys(node: object, where: str = "", *, nodes: bool = False) -> Iterator[str]:
    """Yield the paths of all values in a tree, such as "threat.budget.rate"; with `nodes` those of all mappings instead."""
    for name, item in node.items() if isinstance(node, Mapping) else ():
        place = f"{where}.{name}" if where else str(name)
        if isinstance(item, Mapping):
            yield from (place,) if nodes else ()
            yield from keys(item, place, nodes=nodes)
        elif not nodes and name not in ("_target_", "defaults"):
            yield place


def _nearest(path: str, known: Iterable[str], cutoff: float) -> str:
    """Return the key whose last name is most similar to that of `path`; of several, one in the same group, then the shortest."""
    names: dict[str, list[str]] = {}
    for key in known:
        names.setdefault(key.rpartition(".")[2], []).append(key)
    near = difflib.get_close_matches(path.rpartition(".")[2], names, n=1, cutoff=cutoff)
    return min(names[near[0]], key=lambda key: (key.split(".")[0] != path.split(".")[0], key.count("."), key)) if near else ""


def _offered() -> dict[str, list[str]]:
    """Return the keys of all options, each with the words that choose those options."""
    found: dict[str, list[str]] = {}
    for group in groups():
        for name in options(group) if group != "experiment" else ():
            text = (CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8")
            for key in keys(yaml.load(text, Loader), "" if text.startswith(GLOBAL) else group):
                found.setdefault(key, []).append(f"{group}={name}")
    return found
