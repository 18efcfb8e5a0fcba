"""The words of a record, which a stranger may have written, as they may be run again."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from poisonbench.core.errors import ConfigError
from poisonbench.record import Record, words_in

PREFIX = "python -m poisonbench"
LOCAL_WORDS = ("results_dir", "publish", "tracker", "threads", "device", "workers", "cell_minutes", "engine", "sweep")  # of whoever types, not of a record
TRUSTED_WORDS = ("trust", "hydra", "task.download")  # which run somebody's code, or ask the network


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what somebody types behind a command into words that a record may have only with their leave, and all others."""
    return [word for word in words if _asks(word)], [word for word in words if not _asks(word)]


def words_of(record: Record, allowed: Collection[str]) -> list[str]:
    """Return the words of a record's command, $DATA expanded.

    Args:
        record: whose command.
        allowed: words that the user typed, so that the record may have them.

    Raises:
        ConfigError: a record that no command line made, or one that would run code which the user has not named.
    """
    told = words_in(record.command)
    if told[:3] != PREFIX.split():
        raise ConfigError(f"{record.command!r} is no command line; only records of `python -m poisonbench` can be run again")
    if "$DATA" in record.command and "DATA" not in os.environ:
        raise ConfigError("this record reads data from $DATA; set DATA to the folder that holds them")
    words = [word.replace("$DATA", os.environ.get("DATA", "")) for word in told[3:] if not _local(word)]
    if asked := [word for word in words if _asks(word) and word not in allowed]:
        raise ConfigError(f"this record runs other code than ours, or asks the network; if you trust it, give its words yourself: {' '.join(asked)}")
    return words


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def _asks(word: str) -> bool:
    return any(_key(word) == name or _key(word).startswith(f"{name}.") for name in TRUSTED_WORDS)


def _local(word: str) -> bool:
    return _key(word).partition(".")[0] in LOCAL_WORDS
