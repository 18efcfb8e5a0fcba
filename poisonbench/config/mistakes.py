"""What is wrong with the words of a command line, in one sentence of our own. Imports no torch."""

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
from poisonbench.config.vocabulary import commands, groups, key_meant, option_meant, options
from poisonbench.core.errors import ConfigError, PoisonbenchError, meant

SHOWN = 100  # letters of a word that a message repeats
PLANS = ("attack", "defense")
SEARCH = "hydra.searchpath"
SWEEP, DRY, HELP, CFG, RESOLVE = ("-m", "--multirun"), "--dry-run", ("-h", "--help"), ("-c", "--cfg"), "--resolve"
VERSION = ("-V", "--version")
COMPLETION = ("-sc", "--shell-completion")  # its words are install=bash and the like
FLAGS = (*SWEEP, DRY, *HELP, *CFG, RESOLVE, *VERSION, *COMPLETION)
INSTEAD = {  # what other programs, Hydra's own among them, call it
    "--sweep": "-m",
    **dict.fromkeys(("--config-name", "-cn"), "+experiment=NAME"),
    **dict.fromkeys(("--config-path", "-cp", "--config-dir", "-cd"), f"{SEARCH}=[pkg://PACKAGE.configs]"),
    **dict.fromkeys(("--info", "-i"), "--cfg job"),
    "--hydra-help": "--help",
}
FORM = "a word is KEY=VALUE, such as seed=0"


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the words of a command line into flags and all others.

    Raises:
        ConfigError: a flag that we do not have, or flags that do not go together.
    """
    flags, plain, rest = list[str](), list[str](), iter(words)
    for word in rest:
        if not word.startswith("-"):
            plain.append(word)
        elif word.partition("=")[0] in CFG:
            told = word.partition("=")[2] or next(rest, "")
            if told != "job":
                raise ConfigError(f"{word}: say --cfg job, which prints the configuration that the other words make")
            flags += ["--cfg", told]
        elif word in FLAGS:
            flags.append(word)
        else:
            raise ConfigError(_no_flag(word, words))
    if RESOLVE in flags and "--cfg" not in flags:
        raise ConfigError("--resolve: it goes with --cfg job")
    if "--cfg" in flags and set(flags) & {*SWEEP, DRY}:
        raise ConfigError("--cfg job prints one configuration and runs nothing; leave -m and --dry-run out")
    return flags, plain


def _no_flag(word: str, words: Sequence[str]) -> str:
    name, mark, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    following = words[words.index(word) + 1 :]
    if name in INSTEAD:
        told = f"use {INSTEAD[name]}"
    elif key in groups() or key in (field.name for field in dataclasses.fields(Keys)):
        told = f"did you mean {key}={value if mark else next(iter(following), 'VALUE')}?"
    else:
        near = difflib.get_close_matches(name, FLAGS, n=1, cutoff=0.75)
        told = f"did you mean {near[0]}?" if near else ""
    between = " " if told.endswith("?") else "; " if told else ""
    return f"{brief(word)}: no such flag; {told}{between}known: -m for a sweep, --dry-run, --cfg job, --help, --version"


def brief(word: str) -> str:
    """Return a word as a message repeats it."""
    return word if len(word) < SHOWN else f"{word[:SHOWN]}..."


def read_words(words: Sequence[str], *, sweep: bool = False) -> list[Override]:
    """Return what the words of an experiment ask for, one by one.

    Args:
        words: without flags.
        sweep: several values of one key are allowed.

    Raises:
        ConfigError: what cannot be read, and the first word that asks for something that no configuration could give.
    """
    overrides = []
    for place, word in enumerate(words):
        _check_form(place, words)
        override = parsed(word)
        if override.is_sweep_override() and not sweep:
            raise ConfigError(f"{brief(word)}: several values of one key are a sweep, which needs -m: python -m poisonbench -m {brief(word)}")
        _check_choice(override, word)
        if override.key_or_group.partition(".")[0] == "split":
            raise ConfigError(f"{brief(word)}: learners set it; write {override.key_or_group.replace('split', 'task', 1)}= for the rows of a task")
        overrides.append(override)
    return overrides


@lru_cache(maxsize=1024)
def parsed(word: str) -> Override:
    """Return what a word asks for.

    Raises:
        ConfigError: a word that cannot be read.
    """
    try:
        override = OverridesParser.create().parse_override(word)
        override.value()
    except HydraException:
        told = "a list is [a,b], a mapping {a: 1}; a value with other signs stands in quotes of its own, as in \"task.root='a (b)'\""
        raise ConfigError(f"{brief(word)}: this cannot be read; {told}") from None
    return override


def _check_form(place: int, words: Sequence[str]) -> None:
    word = words[place]
    key, mark, _ = word.lstrip("+~").partition("=")
    if word.startswith("-"):
        raise ConfigError(_no_flag(word, words))
    if not key:
        raise ConfigError(f"{brief(word)}: the key is missing; {FORM}")
    if word.startswith("~") and "." not in key:
        told = f"{key}=none" if "none" in options(key) else f"{key}=VALUE"
        raise ConfigError(f"{brief(word)}: {brief(key)} cannot be taken out of a run; give it another value, such as {told}")
    if not mark and not word.startswith("~"):
        raise ConfigError(_bare(place, words))
    if key.partition(".")[0].partition("/")[0] == "hydra" and key != SEARCH:
        told = f"records go where results_dir=PATH says, sweeps run where engine=NAME says, and {SEARCH}= finds configurations of your own"
        raise ConfigError(f"{brief(word)}: it has no effect here; {told}")


def _bare(place: int, words: Sequence[str]) -> str:
    """Return the sentence on a word that is neither KEY=VALUE nor a flag."""
    word, following = words[place], words[place + 1 : place + 2]
    if word in groups():
        chosen = next((name for name in following if name in options(word)), "")
        return f"{word}: {f'did you mean {word}={chosen}?' if chosen else f'choose one, as in {word}={options(word)[0]}; {meant(chr(0), options(word))}'}"
    if told := option_meant(word):
        return f"{word}: did you mean {told}?"
    if place:
        group, _, value = words[place - 1].partition("=")
        joined = meant(value + word, options(group)) if group in groups() else ""
        near = f"did you mean {group}={joined.removeprefix('did you mean ').partition('?')[0]}? " if joined.startswith("did") else ""
        return f"{brief(word)}: {near}{FORM}; a value with a blank stands in quotes"
    return f"{brief(word)}: no such command; {meant(word, commands())}; and a word of an experiment is KEY=VALUE, such as attack=backdoor"


def _check_choice(override: Override, word: str) -> None:
    """Refuse what is no name of an option, for a key that is a group."""
    group = override.key_or_group
    if group not in groups() or override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if (isinstance(value, list) and group in PLANS and value and all(isinstance(name, str) for name in value)) or isinstance(value, dict):
        return
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{brief(word)}: choose one by its name; known: {', '.join(options(group))}")


def explained(error: Exception, words: Sequence[str], tree: Callable[[], Mapping[str, object]], alone: Callable[[str], bool]) -> str:
    """Return one sentence for an error of Hydra or OmegaConf, without a word of theirs.

    Args:
        error: what came out of them.
        words: that they were given; `read_words` has accepted them.
        tree: makes the configuration without what was wrong.
        alone: tells whether a word can be composed without the others.
    """
    if isinstance(error, MissingConfigException):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group or 'config'}={name}: no such option; {meant(name, error.options or [])}"
    text = f"{error} {error.__cause__ or ''}"
    if found := re.search(r"already at '([^']+)'", text):
        return f"+{found[1]}: {found[1]} is there already; leave the + out"
    if found := re.search(r"(?:Could not override|Could not append to config.*?|Could not delete from config\.) '([^']+)'", text) or re.search(
        r"Key '[^']+' is not in struct\s+full_key: (\S+)", text
    ):
        return unknown_key(found[1].partition("@")[0], tree())
    if found := re.search(r"[Ii]nterpolation key '([^']+)' not found", text):
        return f"${{{found[1]}}}: {key_meant(found[1], tree())}; ${{KEY}} repeats the value of another key"
    merged = re.search(r"Error merging override (.+)", str(error))
    word = merged[1].strip() if merged else next((word for word in words if not alone(word)), "")
    if not word:
        return f"{' '.join(map(brief, words))}: these words do not go together; leave one out"
    key = word.lstrip("+~").partition("=")[0]
    return _untyped(key, word) or f"{brief(word)}: this value cannot stand here; `python -m poisonbench --cfg job` prints what does"


def unknown_key(path: str, tree: Mapping[str, object]) -> str:
    """Return the sentence on a key that does not exist."""
    return f"{brief(path)}: no such key; {key_meant(path, tree)}"


def _untyped(key: str, word: str) -> str:
    """Return what type a key of every run has, if the word's value has another."""
    hint: object = Keys
    for part in key.split("."):
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        inside = [field.name for field in dataclasses.fields(hint) if field.name != "_target_"]
        return f"{brief(word)}: {key} has keys of its own, such as {key}.{inside[0]}; known: {', '.join(sorted(inside))}"
    try:
        fitted(parsed(word).value(), hint, key)
    except PoisonbenchError as error:
        return str(error)
    return ""
