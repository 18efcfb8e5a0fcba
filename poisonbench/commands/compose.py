"""The words of a command line to a tree of plain values; every mistake in them to one sentence."""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from poisonbench.core.errors import ConfigError, meant
from poisonbench.schema import Keys

CONFIGS = Path(__file__).parent.parent.parent / "configs"
PLANS = ("attack", "defense")
SHOWN, LETTERS, DEPTH, DIGITS = 100, 10_000, 20, 300  # of a word: letters that a message repeats, and at most: letters, brackets within each other, digits
OPENED = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}
RESOLVER = re.compile(r"\$\{[^${}]*?:")

ConfigStore.instance().store(name="keys", node=Keys)


UNFIT = (HydraException, OmegaConfBaseException, ValueError, AssertionError)  # `attack=5` and `+=x` get one of the last two out of Hydra


def tree_of(words: Sequence[str]) -> dict[str, object]:
    """Compose the configuration that the words of a command line describe.

    Two attacks or two defenses, as in `defense=[spectral,fine_pruning]`, are composed alone and then joined slot by
    slot: Hydra's own merge would mix their fields.

    Raises:
        ConfigError: one sentence on the first mistake.
    """
    check_words(words)
    with explaining(words):
        overrides = [_parsed(word) for word in words]
        lists = {override.key_or_group: cast("list[str]", override.value()) for override in overrides if _is_plan_list(override)}
        single = [override for override in overrides if not _is_plan_list(override)]
        tree = _composed([str(override.input_line) for override in single if not any(_inside(override, kind) for kind in lists)])
        for kind, names in lists.items():
            tree[kind] = _joined(kind, names, single)
    given = {override.key_or_group: override.value() for override in overrides}
    if tree["trust"] != given.get("trust", ""):
        raise ConfigError("trust is set in a configuration file; it counts on the command line alone")
    return tree


def check_words(words: Iterable[str]) -> None:
    """Refuse words that would keep a parser busy, or ask for more than values.

    Raises:
        ConfigError: a word or a number that is too long, too many brackets within each other, or a resolver such as `${oc.env:HOME}`.
    """
    for word in words:
        told = word if len(word) < SHOWN else f"{word[:SHOWN]}..."
        if len(word) > LETTERS:
            raise ConfigError(f"{told}: a word of {len(word)} letters; at most {LETTERS}")
        depth = max(itertools.accumulate((OPENED.get(letter, 0) for letter in word), lambda depth, step: max(0, depth + step), initial=0))
        if depth > DEPTH or re.search(rf"\d{{{DIGITS + 1},}}", word):
            raise ConfigError(f"{told}: too deep, or a number too long; at most {DEPTH} brackets within each other, and {DIGITS} digits")
        if found := RESOLVER.search(word):
            raise ConfigError(f"{told}: {found[0]}...}} asks for more than a value of the configuration; write the value itself")


def _plain(node: object) -> None:
    """Refuse resolvers in a configuration file."""
    for item in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        if isinstance(item, str):
            check_words([item])
        _plain(item)


def _is_plan_list(override: Override) -> bool:
    return override.key_or_group in PLANS and isinstance(override.value(), list)


def _inside(override: Override, kind: str) -> bool:
    return override.key_or_group.startswith(f"{kind}.")


def _composed(words: Sequence[str]) -> dict[str, object]:
    config = _from_kept(words) or _by_hydra(words)
    _plain(OmegaConf.to_container(config, resolve=False))
    return cast("dict[str, object]", OmegaConf.to_container(config, resolve=True))


def _from_kept(words: Sequence[str]) -> DictConfig | None:
    """Compose with the options of groups as they were composed last: Hydra takes 60 ms for these, and a sweep has the same in most cells.

    Returns None for a mistake and for words of rarer kinds, whose order may matter; Hydra itself has to look at them.
    """
    try:
        overrides = [_parsed(word) for word in words]
        if GlobalHydra.instance().is_initialized() or not all(_is_common(override) for override in overrides):
            return None
        values = [override for override in overrides if _sets_a_value(override)]
        choices = tuple(str(override.input_line) for override in overrides if not _sets_a_value(override))
        config = copy.deepcopy(_options_composed(choices, _last_change()))
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except UNFIT:
        return None
    return config


@lru_cache(maxsize=1024)
def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_overrides([word])[0]


def _sets_a_value(override: Override) -> bool:
    return isinstance(override.value(), dict) or not (CONFIGS / override.key_or_group).is_dir()


def _is_common(override: Override) -> bool:
    """Tell whether a word chooses an option of one of our groups, or changes a value."""
    if override.is_hydra_override() or override.is_sweep_override():
        return False
    return not _sets_a_value(override) or (override.type is OverrideType.CHANGE and override.package is None)


@lru_cache(maxsize=512)  # of some 70 kB each
def _options_composed(words: tuple[str, ...], changed: int) -> DictConfig:
    return _by_hydra(words)


def _last_change() -> int:
    """Return when a file of the configuration was last changed, in nanoseconds."""
    return max(path.stat().st_mtime_ns for path in (CONFIGS, *CONFIGS.rglob("*")))


def _by_hydra(words: Sequence[str]) -> DictConfig:
    started = GlobalHydra.instance().is_initialized()  # inside hydra.main it is, from Python it is not
    with contextlib.nullcontext() if started else initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS.resolve())):
        return compose("config", overrides=list(words))


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
    """Tell whether a slot holds a null object, which gives way to any other."""
    return isinstance(slot, Mapping) and str(slot.get("_target_")) == "poisonbench.core.attack.Untouched"


@contextlib.contextmanager
def explaining(words: Sequence[str]) -> Iterator[None]:
    """Compose in here, and nothing else: what Hydra says of the words becomes one sentence.

    Raises:
        ConfigError: the sentence.
    """
    try:
        yield
    except UNFIT as error:
        raise ConfigError(explained(error, words)) from error


def explained(error: Exception, words: Sequence[str]) -> str:
    """Return one sentence for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group or 'config'}={name}: no such option; {meant(name, error.options or [])}"
    text = f"{error} {error.__cause__ or ''}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found[1].partition("@")[0], words)
    if found := re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", text):
        return _unknown_key(found[2], words)
    if found := re.search(r"Error merging override (\S+)", text):
        cause = str(error.__cause__ or error).splitlines()[0]
        return f"{found[1]}: {cause}"
    told = "" if isinstance(error, AssertionError) else " ".join(str(error).split())
    return told if isinstance(error, HydraException | OmegaConfBaseException) else f"{_unfit(words)[:SHOWN]}: {told or 'no configuration'}"


def _unfit(words: Sequence[str]) -> str:
    """Return the word that Hydra cannot bear even alone, or all of them."""
    for word in words:
        try:
            _composed([word])
        except (HydraException, OmegaConfBaseException):
            continue
        except UNFIT:
            return word
    return " ".join(words)


def _unknown_key(path: str, words: Sequence[str]) -> str:
    parent, _, name = path.rpartition(".")
    known: object = _plain_tree(words)
    for part in parent.split(".") if parent else ():
        known = known.get(part) if isinstance(known, Mapping) else None
    names = [str(key) for key in known if key != "_target_"] if isinstance(known, Mapping) else []
    return f"{path}: no such key; {meant(name, names)}"


def _plain_tree(words: Iterable[str]) -> dict[str, object]:
    """Compose with the choices of groups alone, to know which keys there are."""
    groups = {entry.name for entry in CONFIGS.iterdir() if entry.is_dir()}
    chosen = [word for word in words if word.lstrip("+").split("=")[0].split("@")[0] in groups and not word.startswith("[")]
    try:
        return _composed([word for word in chosen if "[" not in word and "," not in word])
    except UNFIT:
        return _composed([])


def options(group: str) -> list[str]:
    """Return the names that a group offers, sorted."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
