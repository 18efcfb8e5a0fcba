"""`describe NAME...`: what a method does, its source, its threat model, its fields, and its cost so far. Imports no torch."""

from __future__ import annotations

import ast
import inspect
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import cast

from rich.console import Console

from poisonbench.commands.usage import Usage
from poisonbench.config.compose import tree_of
from poisonbench.config.mistakes import SEARCH
from poisonbench.config.vocabulary import groups, options
from poisonbench.core.errors import ConfigError, meant
from poisonbench.core.plugins import HOME
from poisonbench.report.tables import ABSENT, published
from poisonbench.storage.record import Record

COSTS = {"attack": ("poison",), "defense": ("judge", "fit defended", "repair")}  # the stages of a run in which the method itself works

USAGE = Usage(
    call="describe NAME...",
    does="Show what a method does, its source, what its attacker may do, every key with its default, and its seconds in published records.",
    options={
        "NAME": "an option of any group, such as spectral, badnets or image_folder (`list` shows all of them), or the dotted path of a class",
        "hydra.searchpath=[pkg://my_lab.configs]": "where your own options are stored",
    },
)


def main(words: Sequence[str]) -> int:
    """Print each named option, or the class of a dotted path; `hydra.searchpath=[pkg://my_lab.configs]` finds your own options.

    Raises:
        ConfigError: no name, or a name that is in no group.
    """
    more, named = [word for word in words if "=" in word], [word for word in words if "=" not in word]
    known: dict[str, list[str]] = {}
    for group in (group for group in groups() if group != "experiment"):
        for name in options(group):
            if name not in ("none", "default"):
                known.setdefault(name, []).append(group)
    if not named:
        raise ConfigError(f"describe NAME: {meant('', known)}")
    for word in named:
        if "." in word:
            _class(word)
            continue
        found = known.get(word) or _own(word, more)
        if not found:
            raise ConfigError(f"describe {word}: no such option; {meant(word, known)}")
        for group in found:
            _option(group, word, more)
    return 0


def _own(name: str, more: Sequence[str]) -> list[str]:
    """Return the groups in which the user's own configurations contain this option."""

    def exists(group: str) -> bool:
        try:
            tree_of([*more, f"{group}={name}"])
        except ConfigError:
            return False
        return True

    return [group for group in groups() if exists(group)] if any(word.startswith(SEARCH) for word in more) else []


def _class(target: str) -> None:
    """Print the docstring and the fields of a class.

    Raises:
        ConfigError: no such class.
    """
    found = _definition(target)
    if found is None:
        raise ConfigError(f"describe {target}: no such class; give PACKAGE.MODULE.CLASS of a module that Python can import from this folder")
    _say(f"{target}\n", style="bold")
    _say(inspect.cleandoc(ast.get_docstring(found) or ""))
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation)]
    _say("\n" + "\n".join(f"  {ast.unparse(node)}" for node in fields))


def _option(group: str, word: str, more: Sequence[str]) -> None:
    tree = tree_of([*more, f"{group}={word}"])
    for where, node in _plugins(tree[group], group):
        _say(f"{group}={word}: {str(node['_target_']).rpartition('.')[2]}\n", style="bold")
        _say(docstring(str(node["_target_"])))
        fields = {name: value for name, value in node.items() if name != "_target_" and not isinstance(value, Mapping)}
        _say("\n" + "\n".join(f"  {where}.{name}={'null' if value is None else value}" for name, value in fields.items()))
    if group in COSTS:
        _say(f"\nthreat: {_threat(cast('Mapping[str, object]', tree['threat']))}")
        _say(f"cost: {_cost(published(HOME / 'results' / 'records'), group, tree[group])}")


def _say(text: str, style: str = "") -> None:
    Console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _plugins(node: object, where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the plugins of a node; of an attack or a defense, the plugins in its slots instead."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    inner = [(f"{where}.{name}", item) for name, item in node.items() if isinstance(item, Mapping) and "_target_" in item]
    if str(node["_target_"]).startswith(("poisonbench.core.attack.", "poisonbench.core.defense.")):
        for place, item in inner:
            yield from _plugins(item, place)
    else:
        yield where, node


def docstring(target: str) -> str:
    """Return the docstring of a class, read from its file: nothing is imported or run."""
    found = _definition(target)
    return inspect.cleandoc(ast.get_docstring(found) or "") if found else ""


def _definition(target: str) -> ast.ClassDef | None:
    """Return the definition of a class in the file of its module; None if there is none."""
    module, _, name = target.rpartition(".")
    places: Sequence[str] | None = [str(HOME), *sys.path]
    spec = None
    for depth in range(1, module.count(".") + 2):
        spec = PathFinder.find_spec(".".join(module.split(".")[:depth]), places)
        if spec is None:
            return None
        places = spec.submodule_search_locations
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    return next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)


def _threat(threat: Mapping[str, object]) -> str:
    """Return what the attacker may do, without limits that are not set."""
    budget = cast("Mapping[str, object]", threat["budget"])
    limits = {f"budget.{name}": value for name, value in budget.items()} | {name: threat[name] for name in ("trials", "rounds", "omniscient")}
    return ", ".join(f"{name}={value}" for name, value in limits.items() if value not in (None, False) and not name.endswith("_target_"))


def _cost(records: Sequence[Record], group: str, plan: object) -> str:
    """Return the median seconds of the method's own stages, per task, over published records that contain exactly its classes."""
    if not records:
        return f"unknown here; {ABSENT}"
    seconds, wanted = dict[str, list[float]](), set(_methods(plan))
    for record in records:
        if record.status == "done" and wanted and set(_methods(record.spec[group])) == wanted:
            spent = cast("Mapping[str, float]", record.cost["seconds"])
            task = cast("Mapping[str, object]", record.spec["task"])
            rows = cast("Mapping[str, int]", task["rows"])["train"]
            seconds.setdefault(f"{task['name']} ({rows} rows)", []).append(sum(spent.get(stage, 0.0) for stage in COSTS[group]))
    return ", ".join(f"{task} {statistics.median(some):.2g} s" for task, some in sorted(seconds.items())) or "no published record of it"


def _methods(node: object) -> Iterator[str]:
    """Yield the classes of methods in a configuration or a specification, without the classes of poisonbench itself."""
    for name, item in node.items() if isinstance(node, Mapping) else ():
        if name in ("_target_", "class") and not str(item).startswith("poisonbench."):
            yield str(item)
        yield from _methods(item)
