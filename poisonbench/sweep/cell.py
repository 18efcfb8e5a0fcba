"""One experiment of the command line, from its words to a record on disk."""

from __future__ import annotations

import dataclasses
import os
import shlex
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.config.rerun import PREFIX, local
from poisonbench.config.setting import Setting
from poisonbench.core.errors import PoisonbenchError
from poisonbench.storage.record import Record
from poisonbench.trackers.save import leads, save, tracker_of

if TYPE_CHECKING:
    from poisonbench.provenance.lineage import Lineage
    from poisonbench.runner.experiment import Experiment, Loaded
    from poisonbench.storage.store import Store

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one experiment: a record, or the reason why its words were refused.

    Args:
        words: the words of its command line.
        code: its exit code.
        path: the path of its record; None if the words were refused.
        sentence: the reason why they were refused.
        made: number of values that were computed for it, not found in the store.
    """

    words: tuple[str, ...]
    code: int
    path: Path | None = None
    sentence: str = ""
    made: int = 0


def computed(words: Sequence[str], setting: Setting | None = None, loaded: Loaded | None = None) -> Outcome:
    """Run one experiment and write its record, whose status is done, skipped, or failed with the reason.

    Args:
        words: the words of its command line.
        setting: composed from these words, if it exists already.
        loaded: keeps the task for the next cell of a sweep.
    """
    try:
        setting = Setting.of(words) if setting is None else setting
        tracker = tracker_of(setting)
        from poisonbench.provenance.lineage import Lineage
        from poisonbench.runner.experiment import assemble  # which imports torch; refused words need none

        lineage = Lineage() if setting.tree["lineage"] else None
        record = _record(assemble(setting.tree, setting.store, loaded=loaded), setting.store, words, lineage)
        path = save(record, setting, tracker)
        if lineage is not None and leads():
            lineage.write(record, setting.places.results)
    except PoisonbenchError as error:
        return Outcome(words=tuple(words), code=error.code, sentence=str(error))
    made = sum(visit.made for visit in setting.store.visits)
    return Outcome(words=tuple(words), code=FAILED if record.status == "failed" else DONE, path=path, made=made)


def buried(words: Sequence[str], reason: str) -> Outcome:
    """Write the failed record of an experiment whose process ended before it could write one."""
    try:
        setting = Setting.of(words)
        from poisonbench.runner.experiment import assemble

        record = _failed(assemble(setting.tree, setting.store), setting.store, reason, words)
        path = save(record, setting, tracker_of(setting))
    except PoisonbenchError as error:
        return Outcome(words=tuple(words), code=error.code, sentence=str(error))
    return Outcome(words=tuple(words), code=FAILED, path=path)


def _record(experiment: Experiment, store: Store, words: Sequence[str], lineage: Lineage | None) -> Record:
    from poisonbench.runner.pipeline import run

    try:
        return dataclasses.replace(run(experiment, store, lineage), command=portable(words))
    except PoisonbenchError:
        raise
    except Exception as error:  # noqa: BLE001  # the runner alone turns an exception into a failed record
        traceback.print_exc()
        return _failed(experiment, store, f"{type(error).__name__}: {error}", words)


def _failed(experiment: Experiment, store: Store, reason: str, words: Sequence[str]) -> Record:
    from poisonbench.runner.spec import record_of
    from poisonbench.runner.stages import Line

    return dataclasses.replace(record_of(Line(experiment=experiment, store=store)), status="failed", reason=reason, command=portable(words))


def portable(words: Sequence[str]) -> str:
    """Return the command in a form that runs on other machines: a path becomes $DATA/<its last part>."""
    kept = []
    for word in words:
        name, mark, value = word.partition("=")
        if local(word):
            continue
        if mark and ("/" in value or value.startswith(("~", "."))) and Path(os.path.expandvars(value)).expanduser().exists():
            kept.append(f"{name}=$DATA/{Path(value).name}")
        else:
            kept.append(shlex.quote(word) if set(word) & set(" []()*?;&|<>'\"") else word)
    return " ".join([PREFIX, *kept])
