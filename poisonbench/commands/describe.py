"""`describe NAME...`: what a method does, its source, its threat model, its fields, and what it has cost. Imports no torch."""

from __future__ import annotations

import ast
import inspect
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from rich.console import Console

from poisonbench.assemble import HOME
from poisonbench.commands.compose import CONFIGS, options, tree_of
from poisonbench.commands.usage import Usage
from poisonbench.core.errors import ConfigError, meant
from poisonbench.record import Record
from poisonbench.report.tables import published

COSTS = {"attack": ("poison",), "defense": ("judge", "fit defended", "repair")}  # the stages of a run that a method's own work is in

USAGE = Usage(
    call="describe NAME...",
    does="Say what a method does, its source, what its attacker may do, every key with its default, and what it has cost in published records.",
    options={"NAME": "an option of any group, such as spectral, badnets or image_folder; `list` names them all"},
)


def main(words: Sequence[str]) -> int:
    """Print each named option.

    Raises:
        ConfigError: no name, or one that no group offers.
    """
    groups = sorted(entry.name for entry in CONFIGS.iterdir() if entry.is_dir() and entry.name != "experiment")
    known: dict[str, list[str]] = {}
    for group in groups:
        for name in options(group):
            if name not in ("none", "default"):
                known.setdefault(name, []).append(group)
    if not words:
        raise ConfigError(f"describe NAME: {meant('', known)}")
    for word in words:
        if word not in known:
            raise ConfigError(f"describe {word}: no such option; {meant(word, known)}")
        for group in known[word]:
            _option(group, word)
    return 0


def _option(group: str, word: str) -> None:
    tree = tree_of([f"{group}={word}"])
    for where, node in _plugins(tree[group], group):
        _say(f"{group}={word}: {str(node['_target_']).rpartition('.')[2]}\n", style="bold")
        _say(docstring(str(node["_target_"])))
        fields = {name: value for name, value in node.items() if name != "_target_" and not isinstance(value, Mapping)}
        _say("\n" + "\n".join(f"  {where}.{name}={'null' if value is None else value}" for name, value in fields.items()))
    if group in COSTS:
        _say(f"\nthreat: {_threat(cast('Mapping[str, object]', tree['threat']))}")
        _say(f"cost: {_cost(published(Path('results/records')), group, word)}")


def _say(text: str, style: str = "") -> None:
    Console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _plugins(node: object, where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the plugins of a node, those inside a plan's slots rather than the plan."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    inner = [(f"{where}.{name}", item) for name, item in node.items() if isinstance(item, Mapping) and "_target_" in item]
    if str(node["_target_"]).startswith(("poisonbench.core.attack.", "poisonbench.core.defense.")):
        for place, item in inner:
            yield from _plugins(item, place)
    else:
        yield where, node


def docstring(target: str) -> str:
    """Return the docstring of one of our classes, read from its file."""
    module, _, name = target.rpartition(".")
    path = HOME / Path(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return inspect.cleandoc(ast.get_docstring(node) or "")
    return ""


def _threat(threat: Mapping[str, object]) -> str:
    """Return what the attacker may do, without what is not asked for."""
    budget = cast("Mapping[str, object]", threat["budget"])
    told = {f"budget.{name}": value for name, value in budget.items()} | {name: threat[name] for name in ("trials", "rounds", "omniscient")}
    return ", ".join(f"{name}={value}" for name, value in told.items() if value not in (None, False) and not name.endswith("_target_"))


def _cost(records: Sequence[Record], group: str, word: str) -> str:
    """Return the median seconds that the method's own stages took, a task each, over published records of it alone."""
    seconds: dict[str, list[float]] = {}
    for record in records:
        if record.status == "done" and f" {group}={word} " in f"{record.command} ":
            told = cast("Mapping[str, float]", record.cost["seconds"])
            task = cast("Mapping[str, object]", record.spec["task"])
            rows = cast("Mapping[str, int]", task["rows"])["train"]
            seconds.setdefault(f"{task['name']} ({rows} rows)", []).append(sum(told.get(stage, 0.0) for stage in COSTS[group]))
    return ", ".join(f"{task} {statistics.median(some):.2g} s" for task, some in sorted(seconds.items())) or "no published record of it"
