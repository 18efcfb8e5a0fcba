"""Compose a configuration of plain values from the words of a command line; each mistake becomes one sentence."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from poisonbench.config.mistakes import PLANS, SEARCH, brief, explained, parsed, read_words, unknown_key
from poisonbench.config.schema import Keys, check_seed
from poisonbench.config.vocabulary import CONFIGS as CONFIGS
from poisonbench.config.vocabulary import groups
from poisonbench.config.vocabulary import options as options
from poisonbench.core.errors import ConfigError, PoisonbenchError

LETTERS, DEPTH, DIGITS = 10_000, 20, 300  # the most that a word may have: letters, nested brackets, digits of a number
OPENED = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}
RESOLVER = re.compile(r"\$\{[^${}]*?:")
REPEATED = re.compile(r"\$\{\s*([^\s${}.:\[]*)")
OWN_KEYS = frozenset(each.name for each in fields(Keys) if each.type != "Any" and each.default is not MISSING)  # numbers and texts, such as seed

ConfigStore.instance().store(name="keys", node=Keys)


UNFIT = (HydraException, OmegaConfBaseException, ValueError, AssertionError)  # Hydra raises one of the last two for `attack=5` and `+=x`


def tree_of(words: Sequence[str]) -> dict[str, object]:
    """Compose the configuration that the words of a command line describe.

    Two attacks or two defenses, as in `defense=[spectral,fine_pruning]`, are composed alone and then joined slot by
    slot: Hydra's own merge would mix their fields.

    Raises:
        ConfigError: one sentence on the first mistake.
    """
    check_words(words)
    overrides = read_words(words)
    with explaining(words):
        lists = {override.key_or_group: cast("list[str]", override.value()) for override in overrides if _is_plan_list(override)}
        tree = _composed(_outside(lists, overrides))
        for kind, names in lists.items():
            tree[kind] = _joined(kind, names, [override for override in overrides if not _is_plan_list(override)])
    if unknown := sorted(tree.keys() - {field.name for field in fields(Keys)}):
        raise ConfigError(unknown_key(unknown[0], {name: tree[name] for name in tree if name not in unknown}))
    check_seed(cast("int", tree["seed"]))
    given = {override.key_or_group: override.value() for override in overrides}
    if tree["trust"] != given.get("trust", ""):
        raise ConfigError("trust is set in a configuration file; it counts on the command line alone")
    return tree


def written(words: Sequence[str]) -> str:
    """Return the configuration as YAML, with references such as `${net}` as they are in the files.

    Raises:
        ConfigError: one sentence on the first mistake.
    """
    tree, overrides = tree_of(words), read_words(words)
    with explaining(words):
        kinds = [override.key_or_group for override in overrides if _is_plan_list(override)]
        config = _config(_outside(kinds, overrides))
        OmegaConf.set_struct(config, value=False)
        config.update({kind: tree[kind] for kind in kinds})
        return OmegaConf.to_yaml(config)


def check_words(words: Iterable[str]) -> None:
    """Refuse words that would take a parser long, or that are more than values.

    Raises:
        ConfigError: a word or a number that is too long, too many brackets within each other, or a resolver such as `${oc.env:HOME}`.
    """
    for word in words:
        quoted = brief(word)
        if len(word) > LETTERS:
            raise ConfigError(f"{quoted}: a word of {len(word)} letters; at most {LETTERS}")
        depth = max(itertools.accumulate((OPENED.get(letter, 0) for letter in word), lambda depth, step: max(0, depth + step), initial=0))
        if depth > DEPTH or re.search(rf"\d{{{DIGITS + 1},}}", word):
            raise ConfigError(f"{quoted}: too deep, or a number too long; at most {DEPTH} nested brackets, and {DIGITS} digits")
        if found := RESOLVER.search(word):
            raise ConfigError(f"{quoted}: {found[0]}...}} is a resolver of OmegaConf, which is not allowed here; write the value itself")


def _plain(node: object) -> None:
    """Refuse resolvers in a configuration file."""
    for item in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        if isinstance(item, str):
            check_words([item])
        _plain(item)


def _is_plan_list(override: Override) -> bool:
    return override.key_or_group in PLANS and isinstance(override.value(), list)


def _outside(kinds: Iterable[str], overrides: Iterable[Override]) -> list[str]:
    """Return the words that set nothing in these kinds of plans."""
    return [str(override.input_line) for override in overrides if not any(override.key_or_group == kind or _inside(override, kind) for kind in kinds)]


def _inside(override: Override, kind: str) -> bool:
    return override.key_or_group.startswith(f"{kind}.")


def cells_of(words: Sequence[str], *, sweep: bool) -> list[list[str]]:
    """Return the words of each experiment of a command line: one, or every cell of a sweep.

    The cells of a sweep are composed here, so that a mistake in one of them refuses the whole sweep. Hydra's own `main` composes each cell
    twice, at 80 ms each; here cells share what was composed for the same options of groups. The sweeper is always Hydra's basic one.

    Args:
        words: without flags.
        sweep: whether the command line asks for a sweep (-m); an experiment file may ask for one as well.

    Raises:
        ConfigError: one sentence on the first mistake.
    """
    if not sweep and not any(word.startswith(("+", "~", "hydra.")) for word in words):
        return [list(words)]  # no word can ask for a sweep, and asking Hydra would compose once
    searched = [word for word in words if word.startswith(SEARCH)]
    others = [word for word in words if not word.startswith(SEARCH)]
    with explaining(words), initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS.resolve())):
        loader = GlobalHydra.instance().config_loader()
        hydra = loader.load_configuration("config", list(words), run_mode=RunMode.MULTIRUN).hydra
        if not sweep and hydra.mode != RunMode.MULTIRUN:
            return [[*searched, *others]]
        asked = [f"{key}={values}" for key, values in (hydra.sweeper.params or {}).items()]
        (listed,) = BasicSweeper.split_arguments(OverridesParser.create(config_loader=loader).parse_overrides([*asked, *others]), None)
    cells = [[*searched, *cell] for cell in listed]
    for cell in cells:
        with explaining(cell):
            if _from_kept(cell) is None:
                _by_hydra(cell)
    return cells


def _composed(words: Sequence[str]) -> dict[str, object]:
    return _from_kept(words) or _trees(_by_hydra(words)).resolved


class _Trees(NamedTuple):
    """A configuration as plain values, and the keys whose values are used in other places: the first name in each `${...}`."""

    resolved: dict[str, object]
    repeated: frozenset[str]


def _trees(config: DictConfig) -> _Trees:
    unresolved = OmegaConf.to_container(config, resolve=False)
    _plain(unresolved)
    return _Trees(cast("dict[str, object]", OmegaConf.to_container(config, resolve=True)), frozenset(_repeated(unresolved)))


def _repeated(node: object) -> Iterator[str]:
    for item in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        if isinstance(item, str):
            yield from REPEATED.findall(item)
        yield from _repeated(item)


def _from_kept(words: Sequence[str]) -> dict[str, object] | None:
    """Compose from kept compositions: Hydra takes 80 ms for the options of groups, and most cells of a sweep have the same options.

    Returns None for a mistake, and for rare kinds of words, whose order may matter; Hydra itself composes these.
    """
    try:
        overrides = [parsed(word) for word in words]
        if GlobalHydra.instance().is_initialized() or not all(_is_common(override) for override in overrides):
            return None
        choices = tuple(str(override.input_line) for override in overrides if not _sets_a_value(override))
        values = [override for override in overrides if _sets_a_value(override)]
        own = {override.key_or_group for override in values if _is_own(override)} - {override.key_or_group for override in values if not _is_own(override)}
        changed = _last_change(CONFIGS)
        own -= _values_composed(choices, _lines(values, without=own), changed).repeated
        tree = copy.deepcopy(_values_composed(choices, _lines(values, without=own), changed).resolved)
        return tree | {override.key_or_group: _typed(str(override.input_line)) for override in values if override.key_or_group in own}
    except UNFIT:
        return None


def _is_own(override: Override) -> bool:
    """Return whether a word sets a key of every run to a number or a text; no other key depends on it, unless a `${...}` names it."""
    value = override.value()
    alone = value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "${" not in value)
    return alone and override.key_or_group in OWN_KEYS


def _lines(overrides: Iterable[Override], *, without: AbstractSet[str]) -> tuple[str, ...]:
    return tuple(str(override.input_line) for override in overrides if override.key_or_group not in without)


@lru_cache(maxsize=1024)  # about 20 kB each
def _values_composed(choices: tuple[str, ...], values: tuple[str, ...], changed: int) -> _Trees:
    config = copy.deepcopy(_options_composed(choices, changed))
    for override in map(parsed, values):
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    return _trees(config)


@lru_cache(maxsize=4096)
def _typed(word: str) -> object:
    """Return the value that a word sets, converted to the type of its key."""
    override, keys = parsed(word), OmegaConf.structured(Keys)
    OmegaConf.update(keys, override.key_or_group, override.value(), merge=True)
    return OmegaConf.select(keys, override.key_or_group)


def _sets_a_value(override: Override) -> bool:
    return isinstance(override.value(), dict) or not (CONFIGS / override.key_or_group).is_dir()


def _is_common(override: Override) -> bool:
    """Return whether a word chooses an option of one of our groups, or changes a value."""
    if override.is_hydra_override() or override.is_sweep_override():
        return False
    return not _sets_a_value(override) or (override.type is OverrideType.CHANGE and override.package is None)


@lru_cache(maxsize=512)  # about 70 kB each
def _options_composed(words: tuple[str, ...], changed: int) -> DictConfig:
    return _by_hydra(words)


def _last_change(folder: str | Path) -> int:
    """Return when a file below a folder was last changed, in nanoseconds."""
    with os.scandir(folder) as entries:
        inside = [_last_change(entry.path) if entry.is_dir() else entry.stat().st_mtime_ns for entry in entries]
    return max(os.stat(folder).st_mtime_ns, *inside)


def _by_hydra(words: Sequence[str]) -> DictConfig:
    started = GlobalHydra.instance().is_initialized()  # inside hydra.main it is; from Python it is not
    with contextlib.nullcontext() if started else initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS.resolve())):
        return compose("config", overrides=list(words))


def _config(words: Sequence[str]) -> DictConfig:
    """Return Hydra's configuration; if the words only choose options, `tree_of` has composed them already."""
    overrides = [parsed(word) for word in words]
    if all(_is_common(override) and not _sets_a_value(override) for override in overrides):
        return copy.deepcopy(_options_composed(tuple(words), _last_change(CONFIGS)))
    return _by_hydra(words)


def _joined(kind: str, names: list[str], overrides: list[Override]) -> dict[str, object]:
    others = [str(override.input_line) for override in overrides if not _inside(override, kind)]
    joined: dict[str, object] = {}
    for name in names:
        slots = cast("dict[str, object]", _composed([*others, f"{kind}={name}"])[kind])
        own = [str(override.input_line) for override in overrides if _inside(override, kind) and override.key_or_group.split(".")[1] in slots]
        plan = cast("dict[str, object]", _composed([*others, f"{kind}={name}", *own])[kind])
        plan = {slot: part for slot, part in plan.items() if slot not in joined or not _is_null(part)}
        twice = sorted(slot for slot in plan.keys() & joined.keys() - {"_target_"} if not _is_null(joined[slot]))
        if twice:
            raise ConfigError(f"{kind}={names}: two of them fill the slot {', '.join(twice)}; choose one")
        joined |= plan
    return joined


def _is_null(slot: object) -> bool:
    """Return whether a slot is empty, so that another plan may fill it."""
    return isinstance(slot, Mapping) and str(slot.get("_target_")) == "poisonbench.core.attack.Untouched"


@contextlib.contextmanager
def explaining(words: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's errors into one sentence; for blocks that only compose.

    Raises:
        ConfigError: the sentence.
    """
    try:
        yield
    except PoisonbenchError:
        raise
    except UNFIT as error:
        raise ConfigError(explained(error, words, lambda: _plain_tree(words), _composes)) from None


def _composes(word: str) -> bool:
    """Return whether a word can be composed without the others."""
    try:
        _composed([word])
    except UNFIT:
        return False
    return True


def _plain_tree(words: Iterable[str]) -> dict[str, object]:
    """Compose with the choices of groups alone, to find which keys exist."""
    known = groups()
    chosen = [word for word in words if word.lstrip("+").split("=")[0].split("@")[0] in known and not word.startswith("[")]
    try:
        return _composed([word for word in chosen if "[" not in word and "," not in word and _composes(word)])
    except UNFIT:
        return _composed([])
