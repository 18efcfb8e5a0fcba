"""The words of a record, which a stranger may have written, as they may be run again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.storage.record import Record, words_in

PREFIX = "python -m poisonbench"
# settings of the user or the machine, not of the experiment
LOCAL_WORDS = ("results_dir", "publish", "tracker", "threads", "device", "workers", "cell_minutes", "engine", "sweep")
CODE_WORDS, DOWNLOAD = ("trust", "hydra"), "task.download"  # what runs somebody's code, and what asks the network


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what somebody types behind a command into words that a record may have only with their leave, and all others."""
    allowed = [word for word in words if _is(word, *CODE_WORDS, DOWNLOAD)]
    return allowed, [word for word in words if word not in allowed]


def tree_from(record: Record, allowed: Sequence[str], *more: str) -> dict[str, object]:
    """Return the configuration of a record's command, $DATA expanded.

    Args:
        record: whose command.
        allowed: words that the user typed, so that the record may have them.
        more: words of the user's that come after the record's.

    Raises:
        ConfigError: a record that no command line made, or one that would run code or ask the network without the user's word.
    """
    tree = tree_of([*words_of(record, allowed), *more])
    task = tree["task"]
    if isinstance(task, Mapping) and task.get("download") and not any(_is(word, DOWNLOAD) for word in allowed):  # in whatever words it was asked for
        raise ConfigError(f"this record asks the network; if you trust it, say so yourself: {DOWNLOAD}=true")
    return tree


def runtime_of(record: Record) -> list[str]:
    """Return the words for the threads and the device that a record was made with."""
    return [f"threads={record.provenance.get('threads', 0)}", f"device={record.provenance.get('device', 'auto')}"]


def words_of(record: Record, allowed: Sequence[str]) -> list[str]:
    """Return the words of a record's command that are not of the machine it ran on, $DATA expanded.

    Raises:
        ConfigError: a record that no command line made, one whose draws were written nowhere, or one that would run code which the user
            has not named.
    """
    if record.spec.get("salt") == "system":
        raise ConfigError(f"record {record.key}: salt=system, so its draws were written nowhere and cannot be repeated; use a run with salt=null")
    told = words_in(record.command)
    if told[:3] != PREFIX.split():
        raise ConfigError(f"{record.command!r} is no command line; only records of `python -m poisonbench` can be run again")
    if "$DATA" in record.command and "DATA" not in os.environ:
        raise ConfigError("this record reads data from $DATA; set DATA to the folder that holds them")
    words = [word.replace("$DATA", os.environ.get("DATA", "")) for word in told[3:] if not local(word)]
    if asked := [word for word in words if _is(word, *CODE_WORDS) and word not in allowed]:
        raise ConfigError(f"this record runs other code than ours; if you trust it, say so yourself: {' '.join(asked)}")
    return words


def local(word: str) -> bool:
    """Tell whether a word is a setting of the user or the machine, which is left out when a record is run again."""
    return _is(word, *LOCAL_WORDS)


def _is(word: str, *names: str) -> bool:
    """Tell whether a word sets one of these keys, or one below it."""
    key = word.lstrip("+~").partition("=")[0].partition("@")[0]
    return any(key == name or key.startswith(f"{name}.") for name in names)
