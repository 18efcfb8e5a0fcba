"""Check the words of a command line; every mistake becomes one sentence. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException

from poisonbench.config.build import fitted
from poisonbench.config.schema import Keys
from poisonbench.config.vocabulary import commands, groups, key_meant, keys, option_meant, options
from poisonbench.core.errors import ConfigError, PoisonbenchError, meant

SHOWN = 100  # letters of a word that a message quotes at most
PLANS = ("attack", "defense")
SEARCH = "hydra.searchpath"
SWEEP, DRY, HELP, CFG, RESOLVE = ("-m", "--multirun"), "--dry-run", ("-h", "--help"), ("-c", "--cfg"), "--resolve"
VERSION = ("-V", "--version")
COMPLETION = ("-sc", "--shell-completion")  # followed by words such as install=bash
FLAGS = (*SWEEP, DRY, *HELP, *CFG, RESOLVE, *VERSION, *COMPLETION)
INSTEAD = {  # flags of Hydra and of other programs, and what replaces them here
    "--sweep": "-m",
    **dict.fromkeys(("--config-name", "-cn"), "+experiment=NAME"),
    **dict.fromkeys(("--config-path", "-cp", "--config-dir", "-cd"), f"{SEARCH}=[pkg://PACKAGE.configs]"),
    **dict.fromkeys(("--info", "-i"), "--cfg job"),
    "--hydra-help": "--help",
}
FORM = "write KEY=VALUE, such as seed=0"


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words of a command line into flags and all others.

    Raises:
        ConfigError: an unknown flag, or flags that cannot be combined.
    """
    flags, plain, rest = list[str](), list[str](), iter(words)
    for word in rest:
        if not word.startswith("-"):
            plain.append(word)
        elif word.partition("=")[0] in CFG:
            value = word.partition("=")[2] or next(rest, "")
            if value != "job":
                raise ConfigError(f"{word}: write --cfg job, which prints the configuration that the other words give")
            flags += ["--cfg", value]
        elif word in FLAGS:
            flags.append(word)
        else:
            raise ConfigError(_no_flag(word, words))
    if RESOLVE in flags and "--cfg" not in flags:
        raise ConfigError("--resolve: it has an effect only with --cfg job; add --cfg job, or leave --resolve out")
    if "--cfg" in flags and set(flags) & {*SWEEP, DRY}:
        raise ConfigError("--cfg job prints one configuration and runs nothing; leave -m and --dry-run out")
    return flags, plain


def _no_flag(word: str, words: Sequence[str]) -> str:
    name, mark, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    following = words[words.index(word) + 1 :]
    if name in INSTEAD:
        hint = f"use {INSTEAD[name]}"
    elif key in groups() or key in (field.name for field in dataclasses.fields(Keys)):
        hint = f"did you mean {key}={value if mark else next(iter(following), 'VALUE')}?"
    else:
        near = difflib.get_close_matches(name, FLAGS, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else ""
    between = " " if hint.endswith("?") else "; " if hint else ""
    return f"{brief(word)}: no such flag; {hint}{between}known: -m for a sweep, --dry-run, --cfg job, --help, --version"


def brief(word: str) -> str:
    """Return a word, shortened for a message."""
    return word if len(word) < SHOWN else f"{word[:SHOWN]}..."


def read_words(words: Sequence[str], *, sweep: bool = False) -> list[Override]:
    """Parse the words of an experiment.

    Args:
        words: without flags.
        sweep: whether a key may have several values.

    Raises:
        ConfigError: a word that cannot be parsed, or that no configuration accepts.
    """
    overrides = []
    for place, word in enumerate(words):
        _check_form(place, words)
        override = parsed(word)
        if override.is_sweep_override() and not sweep:
            raise ConfigError(f"{brief(word)}: several values of one key make a sweep; add -m: python -m poisonbench -m {brief(word)}")
        _check_choice(override, word)
        if override.key_or_group.partition(".")[0] == "split":
            key = override.key_or_group.replace("split", "task", 1)
            raise ConfigError(f"{brief(word)}: the learner sets this key; write {key}=VALUE to set it for the task")
        overrides.append(override)
    return overrides


@lru_cache(maxsize=1024)
def parsed(word: str) -> Override:
    """Parse one word.

    Raises:
        ConfigError: a word that cannot be parsed.
    """
    try:
        override = OverridesParser.create().parse_override(word)
        override.value()
    except HydraException:
        forms = "write a list as [a,b], a mapping as {a: 1}; put a value with other special characters in quotes, as in \"task.root='a (b)'\""
        raise ConfigError(f"{brief(word)}: this cannot be read; {forms}") from None
    return override


def _check_form(place: int, words: Sequence[str]) -> None:
    word = words[place]
    key, mark, _ = word.lstrip("+~").partition("=")
    if word.startswith("-"):
        raise ConfigError(_no_flag(word, words))
    if not key:
        raise ConfigError(f"{brief(word)}: the key is missing; {FORM}")
    if word.startswith("~") and "." not in key:
        instead = f"{key}=none" if "none" in options(key) else f"{key}=VALUE"
        raise ConfigError(f"{brief(word)}: {brief(key)} cannot be removed from a run; give it another value, such as {instead}")
    if not mark and not word.startswith("~"):
        raise ConfigError(_bare(place, words))
    if key.partition(".")[0].partition("/")[0] == "hydra" and key != SEARCH:
        instead = f"results_dir=PATH sets the folder of records, engine=NAME where a sweep runs, and {SEARCH}= the place of your own configurations"
        raise ConfigError(f"{brief(word)}: settings of Hydra have no effect here; {instead}")


def _bare(place: int, words: Sequence[str]) -> str:
    """Return the sentence for a word that is neither KEY=VALUE nor a flag."""
    word, following = words[place], words[place + 1 : place + 2]
    if word in groups():
        chosen = next((name for name in following if name in options(word)), "")
        return f"{word}: {f'did you mean {word}={chosen}?' if chosen else f'choose one, as in {word}={options(word)[0]}; {meant(chr(0), options(word))}'}"
    if choice := option_meant(word):
        return f"{word}: did you mean {choice}?"
    if place:
        group, _, value = words[place - 1].partition("=")
        joined = meant(value + word, options(group)) if group in groups() else ""
        near = f"did you mean {group}={joined.removeprefix('did you mean ').partition('?')[0]}? " if joined.startswith("did") else ""
        return f"{brief(word)}: {near}{FORM}; put a value with a space in quotes"
    return f"{brief(word)}: no such command; {meant(word, commands())}; for an experiment write KEY=VALUE, such as attack=backdoor"


def _check_choice(override: Override, word: str) -> None:
    """Check that the value of a group is the name of an option."""
    group = override.key_or_group
    if group not in groups() or override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if (isinstance(value, list) and group in PLANS and value and all(isinstance(name, str) for name in value)) or isinstance(value, dict):
        return
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{brief(word)}: choose one by its name; known: {', '.join(options(group))}")


def explained(error: Exception, words: Sequence[str], tree: Callable[[], Mapping[str, object]], alone: Callable[[str], bool]) -> str:
    """Return one sentence of ours for an error of Hydra or OmegaConf.

    Args:
        error: what they raised.
        words: what they got; `read_words` has accepted these words.
        tree: composes the configuration without the wrong words.
        alone: whether a word can be composed without the others.
    """
    if isinstance(error, MissingConfigException):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group or 'config'}={name}: no such option; {meant(name, error.options or [])}"
    text = f"{error} {error.__cause__ or ''}"
    if found := re.search(r"already at '([^']+)'", text):
        return f"+{found[1]}: the key {found[1]} exists already; leave the + out"
    if found := re.search(r"(?:Could not override|Could not append to config.*?|Could not delete from config\.) '([^']+)'", text) or re.search(
        r"Key '[^']+' is not in struct\s+full_key: (\S+)", text
    ):
        return unknown_key(found[1].partition("@")[0], tree())
    if found := re.search(r"[Ii]nterpolation key '([^']+)' not found", text):
        return f"${{{found[1]}}}: {key_meant(found[1], tree())}; ${{KEY}} copies the value of another key"
    merged = re.search(r"Error merging override (.+)", str(error))
    word = merged[1].strip() if merged else next((word for word in words if not alone(word)), "")
    if not word:
        return f"{' '.join(map(brief, words))}: these words cannot be combined; leave one out"
    key = word.lstrip("+~").partition("=")[0]
    return _untyped(key, word) or f"{brief(word)}: the key does not accept this value; `python -m poisonbench --cfg job` prints all keys with values that work"


def unknown_key(path: str, tree: Mapping[str, object]) -> str:
    """Return the sentence for a key that does not exist."""
    fault = "cannot be set here" if path in keys(tree) else "no such key"
    return f"{brief(path)}: {fault}; {key_meant(path, tree)}"


def _untyped(key: str, word: str) -> str:
    """Return the sentence for a value of the wrong type; empty where the type fits or the key is not one that every run has."""
    hint: object = Keys
    for part in key.split("."):
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        inside = [field.name for field in dataclasses.fields(hint) if field.name != "_target_"]
        return f"{brief(word)}: {key} contains other keys; set one of them, such as {key}.{inside[0]}; known: {', '.join(sorted(inside))}"
    try:
        fitted(parsed(word).value(), hint, key)
    except PoisonbenchError as error:
        return str(error)
    return ""
