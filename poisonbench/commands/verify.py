"""`verify RECORD... [tolerance=0.02] [trust=PREFIX.]`: run a record's command again with an empty store and compare every figure."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from poisonbench.commands.usage import TRUST, Usage
from poisonbench.config.rerun import setting_from, split
from poisonbench.core.errors import ConfigError
from poisonbench.report.figures import machine, plain
from poisonbench.storage.record import SCHEMA, Part, Record, read

TOLERANCE = 0.02  # two points of a percentage
NEW = "nothing"  # in place of a value that a record does not have; compared with `is`
RUNTIME = ("torch", "threads", "device", "bf16", "processor")

USAGE = Usage(
    call="verify RECORD... [tolerance=0.02]",
    does="Run the command of a record again with an empty store and compare every figure; exit code 1 if one differs.",
    options={
        "RECORD": "path of a record",
        f"tolerance={TOLERANCE}": "how much figures may differ if device, processor, threads or versions are not those of the record",
        **TRUST,
    },
)


def main(words: Sequence[str]) -> int:
    """Repeat each record in an empty store; return 1 if a figure differs.

    If device, processor, threads or versions are not those of the record, bits may differ, and figures are compared within a tolerance:
    numbers up to 1 by their difference, larger ones by their ratio. A record of code outside poisonbench runs only if its `trust=` and
    `hydra.searchpath=` are also given to `verify`.

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
    recorded = read(path)
    if recorded.status != "done":
        raise ConfigError(f"{path} is {recorded.status}; only a record with status done can be verified")
    again = _again(recorded, allowed)
    before, now = _runtime(recorded), _runtime(again)
    elsewhere = [f"{name}: recorded {before[name]}, now {now[name]}" for name in before if before[name] != now[name]]
    if not list(differences(recorded, again, 0.0)):
        _say(f"{path}: verified, every figure is equal")
        return 0
    far = list(differences(recorded, again, tolerance if elsewhere else 0.0))
    _say(f"{path}: {'differs' if far else f'verified within {tolerance}; the bits differ, and so do'}")
    made, here = machine(recorded), machine(again)
    place = [f"the record was made on {made}, this machine is {here}"] if made != here else []
    for line in (*far, *place, *elsewhere):
        _say(f"  {line}")
    return int(bool(far))


def _runtime(record: Record) -> dict[str, object]:
    """Return what the bits of figures, and the keys of code outside poisonbench, depend on."""
    versions = record.provenance.get("versions")
    return {name: record.provenance.get(name, NEW) for name in RUNTIME} | {"python": versions.get("python", NEW) if isinstance(versions, Mapping) else NEW}


def _again(record: Record, allowed: Sequence[str]) -> Record:
    """Run a record's command with an empty store and its threads, and on its device if this machine has it."""
    from poisonbench.learn.device import resolve
    from poisonbench.runner.experiment import assemble
    from poisonbench.runner.pipeline import run

    device, threads = str(record.provenance.get("device", "auto")), record.provenance.get("threads", 0)
    try:
        resolve(device)
    except ConfigError:
        device = "auto"
    with tempfile.TemporaryDirectory() as folder:
        setting = setting_from(record, allowed, f"threads={threads}", f"device={device}", results_dir=folder)
        return run(assemble(setting.tree, setting.store), setting.store)


def differences(recorded: Record, again: Record, tolerance: float) -> Iterator[str]:
    """Yield one line for each value that differs by more than `tolerance`; other values than numbers must be equal.

    With a tolerance the names of stored values are not compared. A metric that is missing in the record was added later and is no
    difference; in a record of schema 1 this holds for every value.
    """
    recorded = renewed(recorded)
    for name in ("spec", "metrics", "undefended", "baseline", "counts", "curves", "facts", *(() if tolerance else ("keys",))):
        mine, theirs = (json.loads(json.dumps(dataclasses.asdict(record)[name])) for record in (again, recorded))
        for where, now, before in _pairs(mine, theirs, name):
            if not _near(now, before, tolerance) and not (before is NEW and (name == "metrics" or recorded.schema < SCHEMA)):
                yield f"{where}: recorded {before}, now {now}"


def renewed(record: Record) -> Record:
    """Return a record of schema 1 with the figures of its goal in the place that schema 2 has for them."""
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
