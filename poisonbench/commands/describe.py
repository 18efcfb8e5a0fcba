"""`describe NAME...`: what a method does, its source, its threat model, its fields, and its cost so far. Imports no torch."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import cast

from rich.console import Console

from poisonbench.commands.described import COSTS, allowed, cost, definition, docstring, option
from poisonbench.commands.usage import Usage
from poisonbench.config.compose import tree_of
from poisonbench.config.mistakes import SEARCH
from poisonbench.config.vocabulary import groups, options
from poisonbench.core.errors import ConfigError, meant
from poisonbench.core.plugins import HOME
from poisonbench.report.tables import published

USAGE = Usage(
    call="describe NAME...",
    does="Show what a method does, its source, what its attacker may do, every key with its default, and its seconds in published records.",
    options={
        "NAME": "an option of any group, such as spectral, badnets or attack=sig (`list` shows all of them), or the dotted path of a class",
        "hydra.searchpath=[pkg://my_lab.configs]": "where your own options are stored",
    },
)


def main(words: Sequence[str]) -> int:
    """Print each named option, or the class of a dotted path; `hydra.searchpath=[pkg://my_lab.configs]` finds your own options.

    Raises:
        ConfigError: no name, or a name that is in no group.
    """
    chosen = [word.rpartition("=")[2] if word.partition("=")[0] in groups() else word for word in words]  # "attack=sig" means the same as "sig"
    more, named = [word for word in chosen if "=" in word], [word for word in chosen if "=" not in word]
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
    found = definition(target)
    if found is None:
        raise ConfigError(f"describe {target}: no such class; give PACKAGE.MODULE.CLASS of a module that Python can import from this folder")
    _say(f"{target}\n", style="bold")
    _say(inspect.cleandoc(ast.get_docstring(found) or ""))
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation)]
    _say("\n" + "\n".join(f"  {ast.unparse(node)}" for node in fields))


def _option(group: str, word: str, more: Sequence[str]) -> None:
    found = option(group, word, more)
    if found.note:
        _say(f"{found.note}\n")
    for part in found.parts:
        _say(f"{group}={word}: {part.target.rpartition('.')[2]}\n", style="bold")
        _say(docstring(part.target))
        values = [setting for setting in part.settings if not isinstance(setting.value, Mapping)]
        _say("\n" + "".join(f"  {setting.name}={'null' if setting.value is None else setting.value}\n" for setting in values))
    if group in COSTS:
        _say(f"threat: {allowed(cast('Mapping[str, object]', found.tree['threat']))}")
        _say(f"cost: {cost(published(HOME / 'results' / 'records'), group, found.tree[group])}")


def _say(text: str, style: str = "") -> None:
    Console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)
