"""What an option of a group is made of: its classes, their keys, and what else it chooses. Imports no torch."""

from __future__ import annotations

import ast
import inspect
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from poisonbench.config.compose import CONFIGS, check_words, explaining
from poisonbench.config.vocabulary import GLOBAL, groups, keys
from poisonbench.core.plugins import HOME
from poisonbench.core.trees import value_at
from poisonbench.report.tables import ABSENT
from poisonbench.storage.record import Record

COSTS = {"attack": ("poison",), "defense": ("judge", "fit defended", "repair")}  # the stages of a run in which the method itself works
PLANS = ("poisonbench.core.attack.", "poisonbench.core.defense.")  # classes that hold plugins and do nothing themselves
REFERENCE = "${"
WITHIN = {  # groups that no run has by itself: a word that makes place for one, and the place
    "features": ("learner=ridge", "learner.features"),
    "writer": ("attack=competing", "attack.data.first"),
}


@dataclass(frozen=True, kw_only=True)
class OptionKey:
    """A key of an option.

    Args:
        name: the whole key, such as "attack.data.size".
        value: its default.
        follows: the key whose value it takes, such as "split.trusted"; empty for a value of its own.
    """

    name: str
    value: object
    follows: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A class that an option uses.

    Args:
        where: its place in the configuration, such as "attack.data".
        target: its dotted path.
        settings: its keys.
    """

    where: str
    target: str
    settings: tuple[OptionKey, ...]


@dataclass(frozen=True, kw_only=True)
class Option:
    """What GROUP=NAME stands for.

    Args:
        group: such as "attack".
        name: such as "badnets".
        words: what chooses it on the command line.
        note: the comment at the head of its file.
        base: the option of the same group that it starts from; empty for none.
        parts: its classes.
        brings: options of other groups that it chooses.
        sets: keys outside its group that it changes.
        swept: keys that it sweeps, each with its values as they are written.
        tree: the resolved configuration with this option, everything else at its default.
    """

    group: str
    name: str
    words: str
    note: str
    base: str
    parts: tuple[Part, ...]
    brings: Mapping[str, str]
    sets: Mapping[str, object]
    swept: Mapping[str, str]
    tree: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A configuration as plain values, resolved and as it is written, with the chosen options and the swept keys."""

    resolved: Mapping[str, object]
    written: Mapping[str, object]
    chosen: Mapping[str, str]
    swept: Mapping[str, str]


def option(group: str, name: str, more: Sequence[str] = ()) -> Option:
    """Return what an option is made of.

    Args:
        group: such as "attack".
        name: such as "badnets".
        more: other words, such as where options outside poisonbench lie.

    Raises:
        ConfigError: one sentence on the first mistake.
    """
    first, place = WITHIN.get(group, ("", group))
    word = f"+{group}={name}" if group == "experiment" else f"{group}@{place}={name}" if first else f"{group}={name}"
    more = [*more, first] if first else more
    found, usual = composed((*more, word)), composed(tuple(more))
    brings = {other: choice for other, choice in found.chosen.items() if other != group and usual.chosen.get(other) != choice}
    plain = composed((*more, *(f"{other}={choice}" for other, choice in brings.items()))) if brings else usual
    before = dict(_leaves(plain.written))
    sets = {key: value for key, value in _leaves(found.written) if before.get(key, plain) != value and not key.startswith(f"{place}.")}
    path = CONFIGS / group / f"{name}.yaml"
    return Option(
        group=group,
        name=name,
        words=" ".join([first, word]).strip(),
        note=_note(path),
        base=_base(path),
        parts=tuple(_parts(value_at(found.resolved, place.split(".")), value_at(found.written, place.split(".")), place)),
        brings=brings,
        sets=sets,
        swept=found.swept,
        tree=found.resolved,
    )


def origin(found: Option) -> Option | None:
    """Return the option that another is a variant of: the same classes, with the same or other defaults; None for an option with other classes."""
    base = option(found.group, found.base) if found.base else None
    return base if base and [part.target for part in base.parts] == [part.target for part in found.parts] else None


@lru_cache(maxsize=256)
def composed(words: tuple[str, ...]) -> Composition:
    """Compose words, and keep what was chosen and swept beside the values.

    Raises:
        ConfigError: one sentence on the first mistake.
    """
    check_words(words)
    with explaining(words), initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS.resolve())):
        config = compose("config", overrides=list(words), return_hydra_config=True)
        known = groups()
        chosen = {str(group): str(name) for group, name in config.hydra.runtime.choices.items() if group in known and group != "experiment"}
        swept = {str(key): str(values) for key, values in (config.hydra.sweeper.params or {}).items()}
        nodes = {str(key): config[key] for key in config if key != "hydra"}
        resolved = {key: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node for key, node in nodes.items()}
        written = cast("dict[str, object]", OmegaConf.to_container(config, resolve=False))
        written = {key: written[key] for key in nodes}
        return Composition(resolved=resolved, written=written, chosen=chosen, swept=swept)


def _leaves(tree: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield each key of a tree and its value."""
    for key in keys(tree):
        yield key, value_at(tree, key.split("."))


def _note(path: Path) -> str:
    """Return the comment at the head of a configuration file; nothing for a file outside the project."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    head = []
    for line in lines[1:] if lines[:1] == [GLOBAL] else lines:
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    return " ".join(head)


def _base(path: Path) -> str:
    """Return the option of the same group that a file starts from."""
    tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False) if path.is_file() else {}
    defaults = cast("list[object]", cast("dict[str, object]", tree).get("defaults", []))
    return next((entry for entry in defaults if isinstance(entry, str) and (path.parent / f"{entry}.yaml").is_file()), "")


def _parts(node: object, written: object, where: str) -> Iterator[Part]:
    """Yield the plugins of a node, outermost first; a plan has slots for them and is none itself.

    Args:
        node: with its references resolved.
        written: the same with its references as they are written, such as "${net}".
        where: its place in the configuration.
    """
    if not isinstance(node, Mapping) or not isinstance(written, Mapping):  # what is a reference stands where it refers to
        return
    target = str(node.get("_target_", ""))
    if target and not target.startswith(PLANS):
        listed = {name: value for name, value in node.items() if name != "_target_" and not _is_plugin(written.get(name))}
        yield Part(where=where, target=target, settings=tuple(_setting(f"{where}.{name}", value, written.get(name)) for name, value in listed.items()))
    for name, item in node.items():
        yield from _parts(item, written.get(name), f"{where}.{name}") if _is_plugin(written.get(name)) else ()


def _is_plugin(node: object) -> bool:
    return isinstance(node, Mapping) and "_target_" in node


def _setting(name: str, value: object, written: object) -> OptionKey:
    follows = written.removeprefix(REFERENCE).removesuffix("}") if isinstance(written, str) and written.startswith(REFERENCE) else ""
    return OptionKey(name=name, value=value, follows=follows)


def docstring(target: str) -> str:
    """Return the docstring of a class, read from its file: nothing is imported or run."""
    found = definition(target)
    return inspect.cleandoc(ast.get_docstring(found) or "") if found else ""


def definition(target: str) -> ast.ClassDef | None:
    """Return a class of a module as its file has it; None if there is none."""
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


def allowed(threat: Mapping[str, object]) -> str:
    """Return what the attacker may do, without what the threat does not grant."""
    budget, reach = cast("Mapping[str, object]", threat["budget"]), cast("Mapping[str, object]", threat["reach"])
    unused = "rate" if budget["count"] is not None else "count"
    granted = {f"budget.{name}": value for name, value in budget.items() if name != unused}
    granted |= {f"reach.{name}": value for name, value in reach.items()} | {name: threat[name] for name in ("trials", "rounds", "omniscient")}
    return ", ".join(f"{name}={value}" for name, value in granted.items() if value not in (None, False) and not name.endswith("_target_"))


def cost(records: Sequence[Record], group: str, plan: object) -> str:
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
