"""Run the command of a record again. Strangers write records too, so only safe words are taken from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from poisonbench.config.setting import Setting
from poisonbench.core.errors import ConfigError
from poisonbench.storage.record import Record, words_in

PREFIX = "python -m poisonbench"
# settings of the user or the machine, not of the experiment
LOCAL_WORDS = ("results_dir", "publish", "lineage", "tracker", "threads", "device", "workers", "cell_minutes", "engine", "sweep")
CODE_WORDS, DOWNLOAD = ("trust", "hydra"), "task.download"  # words that run other code, and the word that uses the network


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the user's words: those that give a record permission to run code or to use the network, and all others."""
    allowed = [word for word in words if _is(word, *CODE_WORDS, DOWNLOAD)]
    return allowed, [word for word in words if word not in allowed]


def setting_from(record: Record, allowed: Sequence[str], *more: str, results_dir: str | Path | None = None) -> Setting:
    """Return the setting of a record's command, with $DATA expanded.

    Args:
        record: whose command it is.
        allowed: words that the user typed, so the record may contain them too.
        more: words of the user that come after those of the record.
        results_dir: the folder of results, in place of the one that the words name.

    Raises:
        ConfigError: a record that no command line made, or one that would run code or use the network without the user's permission.
    """
    setting = Setting.of([*words_of(record, allowed), *more], results_dir=results_dir)
    task = setting.tree["task"]
    if isinstance(task, Mapping) and task.get("download") and not any(_is(word, DOWNLOAD) for word in allowed):  # whichever words set it
        raise ConfigError(f"this record downloads data; if you trust it, add: {DOWNLOAD}=true")
    return setting


def runtime_of(record: Record) -> list[str]:
    """Return the words for the threads and the device that a record was made with."""
    return [f"threads={record.provenance.get('threads', 0)}", f"device={record.provenance.get('device', 'auto')}"]


def words_of(record: Record, allowed: Sequence[str]) -> list[str]:
    """Return the words of a record's command without settings of its machine, with $DATA expanded.

    Raises:
        ConfigError: a record that no command line made, one whose random draws were not kept, or one that would run code that the user
            did not allow.
    """
    if record.spec.get("salt") == "system":
        raise ConfigError(f"record {record.key}: salt=system, so its random draws were not kept and cannot be repeated; use a run with salt=null")
    words = words_in(record.command)
    if words[:3] != PREFIX.split():
        raise ConfigError(f"{record.command!r} is no command line; only records of `python -m poisonbench` can be run again")
    if "$DATA" in record.command and "DATA" not in os.environ:
        raise ConfigError("this record reads data from $DATA; set DATA to the folder that holds them")
    words = [word.replace("$DATA", os.environ.get("DATA", "")) for word in words[3:] if not local(word)]
    if asked := [word for word in words if _is(word, *CODE_WORDS) and word not in allowed]:
        raise ConfigError(f"this record runs code from outside poisonbench; if you trust it, add: {' '.join(asked)}")
    return words


def local(word: str) -> bool:
    """Return whether a word is a local setting that records leave out."""
    return _is(word, *LOCAL_WORDS)


def _is(word: str, *names: str) -> bool:
    """Return whether a word sets one of these keys, or a key below one of them."""
    key = word.lstrip("+~").partition("=")[0].partition("@")[0]
    return any(key == name or key.startswith(f"{name}.") for name in names)
