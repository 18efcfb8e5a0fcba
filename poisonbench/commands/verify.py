"""`verify RECORD... [tolerance=0.02] [trust=PREFIX.]`: run a record's command again from nothing and compare every figure."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from poisonbench.commands.usage import TRUST, Usage
from poisonbench.config.rerun import split, tree_from
from poisonbench.core.errors import ConfigError
from poisonbench.report.figures import machine, plain
from poisonbench.runner.experiment import Places, assemble, open_store
from poisonbench.storage.record import SCHEMA, Part, Record, read

TOLERANCE = 0.02  # two points of a percentage
NEW = "nothing"  # stands for what a record does not hold; told apart by identity
RUNTIME = ("torch", "threads", "device", "bf16", "processor")

USAGE = Usage(
    call="verify RECORD... [tolerance=0.02]",
    does="Run the command of a record again from nothing and compare every figure; exit code 1 if one differs.",
    options={
        "RECORD": "path of a record",
        f"tolerance={TOLERANCE}": "how far figures may lie apart where device, processor, threads or versions are not those of the record",
        **TRUST,
    },
)


def main(words: Sequence[str]) -> int:
    """Repeat each record in an empty store; return 1 if a figure differs.

    Where device, processor, threads or versions cannot be those of the record, bits may differ, and figures are compared within a tolerance:
    fractions by their difference, other numbers by their ratio. A record that brings code of its own is run only where its `trust=` and
    `hydra.searchpath=` stand behind `verify` too.

    Raises:
        ConfigError: no record given, or one that cannot be repeated.
    """
    allowed, words = split(words)
    given = [word.partition("=")[2] for word in words if word.startswith("tolerance=")]
    try:
        tolerance = float(given[-1]) if given else TOLERANCE
    except ValueError:
        raise ConfigError(f"tolerance={given[-1]}: give a number, such as {TOLERANCE}") from None
    paths = [Path(word) for word in words if not word.startswith("tolerance=")]
    if not paths:
        raise ConfigError("verify RECORD: give the path of a record, such as results/records/0123456789abcdef.json")
    return max([_verify(path, tolerance, allowed) for path in paths])


def _verify(path: Path, tolerance: float, allowed: Sequence[str]) -> int:
    told = read(path)
    if told.status != "done":
        raise ConfigError(f"{path} is {told.status}; only a record that is done can be verified")
    again = _again(told, allowed)
    before, now = _runtime(told), _runtime(again)
    elsewhere = [f"{name}: recorded {before[name]}, now {now[name]}" for name in before if before[name] != now[name]]
    if not list(differences(told, again, 0.0)):
        _say(f"{path}: verified, every figure equal")
        return 0
    far = list(differences(told, again, tolerance if elsewhere else 0.0))
    _say(f"{path}: {'differs' if far else f'verified within {tolerance}; bits differ, and so do'}")
    made, here = machine(told), machine(again)
    place = [f"the record was made on {made}, this machine is {here}"] if made != here else []
    for line in (*far, *place, *elsewhere):
        _say(f"  {line}")
    return int(bool(far))


def _runtime(record: Record) -> dict[str, object]:
    """Return what bits, and the keys of code, depend on."""
    versions = record.provenance.get("versions")
    return {name: record.provenance.get(name, NEW) for name in RUNTIME} | {"python": versions.get("python", NEW) if isinstance(versions, Mapping) else NEW}


def _again(told: Record, allowed: Sequence[str]) -> Record:
    """Run a record's command in an empty store, with its threads and, where this machine has it, on its device."""
    from poisonbench.learn.device import resolve
    from poisonbench.runner.pipeline import run

    device, threads = str(told.provenance.get("device", "auto")), told.provenance.get("threads", 0)
    try:
        resolve(device)
    except ConfigError:
        device = "auto"
    with tempfile.TemporaryDirectory() as folder:
        tree = tree_from(told, allowed, f"threads={threads}", f"device={device}")
        store = open_store(tree, Places(results=Path(folder), published=Path(folder)))
        return run(assemble(tree, store), store)


def differences(told: Record, again: Record, tolerance: float) -> Iterator[str]:
    """Yield one line a value that differs by more than `tolerance`; what is no number has to be equal, unless it names stored values.

    A metric that the record does not hold is one that came later, and contradicts nothing; in a record of schema 1 that holds for every value.
    """
    told = renewed(told)
    for name in ("spec", "metrics", "undefended", "baseline", "counts", "curves", "facts", *(() if tolerance else ("keys",))):
        mine, theirs = (json.loads(json.dumps(dataclasses.asdict(record)[name])) for record in (again, told))
        for where, now, before in _pairs(mine, theirs, name):
            if not _near(now, before, tolerance) and not (before is NEW and (name == "metrics" or told.schema < SCHEMA)):
                yield f"{where}: recorded {before}, now {now}"


def renewed(record: Record) -> Record:
    """Return a record of schema 1 with the figures of its goal where schema 2 has them."""
    if record.schema == SCHEMA:
        return record
    parts: dict[Part, dict[str, object]] = {}
    for part in get_args(Part):
        own = dict(record.goal(part))
        parts[part] = {name: value for name, value in getattr(record, part).items() if name not in own} | ({"goal": own} if own else {})
    return dataclasses.replace(record, metrics=parts["metrics"], undefended=parts["undefended"], baseline=parts["baseline"])


def _pairs(mine: object, theirs: object, where: str) -> Iterator[tuple[str, object, object]]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted(mine.keys() | theirs.keys()):
            yield from _pairs(mine.get(key), theirs.get(key, NEW), f"{where}.{key}")
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for place, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            yield from _pairs(one, other, f"{where}[{place}]")
    else:
        yield where, mine, theirs


def _near(now: object, before: object, tolerance: float) -> bool:
    if not (isinstance(now, int | float) and isinstance(before, int | float)) or not tolerance:
        return now == before
    return abs(now - before) <= tolerance * max(1.0, abs(before))


def _say(text: str) -> None:
    Console().print(plain(text), markup=False, highlight=False, soft_wrap=True)
