"""`verify RECORD...`: run a record's command again from nothing and compare every figure."""

from __future__ import annotations

import dataclasses
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from poisonbench.assemble import Places, assemble, open_store
from poisonbench.commands.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.record import Record, read

PREFIX = "python -m poisonbench "


def words_of(record: Record) -> list[str]:
    """Return the words of a record's command, $DATA expanded.

    Raises:
        ConfigError: a record that no command line made.
    """
    if not record.command.startswith(PREFIX):
        raise ConfigError(f"{record.command!r} is no command line; only records of `python -m poisonbench` can be run again")
    if "$DATA" in record.command and "DATA" not in os.environ:
        raise ConfigError("this record reads data from $DATA; set DATA to the folder that holds them")
    return [os.path.expandvars(word) for word in shlex.split(record.command.removeprefix(PREFIX))]


def main(words: Sequence[str]) -> int:
    """Repeat each record in an empty store; return 1 if a figure differs.

    Raises:
        ConfigError: no record given, or one that cannot be repeated.
    """
    if not words:
        raise ConfigError("verify RECORD: give the path of a record, such as results/records/0123456789abcdef.json")
    return max([_verify(Path(word)) for word in words])


def _verify(path: Path) -> int:
    from poisonbench.pipeline import run

    told = read(path)
    console = Console()
    if told.status != "done":
        raise ConfigError(f"{path} is {told.status}; only a record that is done can be verified")
    with tempfile.TemporaryDirectory() as folder:
        tree = tree_of([*words_of(told), f"threads={told.provenance['threads']}", f"device={told.provenance['device']}"])
        store = open_store(tree, Places(results=Path(folder), published=Path(folder)))
        again = run(assemble(tree, store), store)
    if again.result_digest == told.result_digest:
        console.print(f"{path}: verified, every figure equal", markup=False, highlight=False, soft_wrap=True)
        return 0
    console.print(f"{path}: differs", markup=False, highlight=False, soft_wrap=True)
    for name in ("spec", "metrics", "undefended", "baseline", "counts", "facts", "keys"):
        mine, theirs = dataclasses.asdict(again)[name], dataclasses.asdict(told)[name]
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                console.print(f"  {name}.{key}: recorded {theirs.get(key)}, now {mine.get(key)}", markup=False, highlight=False, soft_wrap=True)
    for name in ("torch", "threads", "device", "bf16"):
        if again.provenance.get(name) != told.provenance.get(name):
            console.print(f"  {name}: recorded {told.provenance.get(name)}, now {again.provenance.get(name)}: bits may differ", markup=False)
    return 1
