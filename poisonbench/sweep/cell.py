"""One experiment of the command line: words to a record on the disk, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import os
import shlex
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.config.compose import tree_of
from poisonbench.config.rerun import PREFIX, local
from poisonbench.core.errors import PoisonbenchError
from poisonbench.runner.experiment import Loaded, Places, assemble, open_store
from poisonbench.storage.record import Record
from poisonbench.trackers.save import publish, tracker_of

if TYPE_CHECKING:
    from poisonbench.runner.pipeline import Experiment
    from poisonbench.storage.store import Store

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of one experiment.

    Args:
        words: of its command line.
        code: exit code of its own.
        path: of its record; none where the words were refused.
        sentence: why they were refused.
        made: values that were computed for it, rather than found.
    """

    words: tuple[str, ...]
    code: int
    path: Path | None = None
    sentence: str = ""
    made: int = 0


def computed(words: Sequence[str], tree: Mapping[str, object] | None = None, loaded: Loaded | None = None) -> Cell:
    """Run one experiment and write its record: done, skipped, or failed with the reason.

    Args:
        words: of its command line.
        tree: the configuration that they describe, if it is composed already.
        loaded: keeps the task for the next cell of a sweep.
    """
    try:
        tree = tree_of(words) if tree is None else tree
        places = Places.of(tree)
        store = open_store(tree, places)
        record, path = _run(tree, places, store, words, assemble(tree, store, loaded=loaded))
    except PoisonbenchError as error:
        return Cell(words=tuple(words), code=error.code, sentence=str(error))
    made = sum(visit.made for visit in store.visits)
    code = FAILED if record.status == "failed" else DONE
    return Cell(words=tuple(words), code=code, path=path, made=made)


def buried(words: Sequence[str], reason: str) -> Cell:
    """Write the failed record of an experiment whose process did not live to do so."""
    try:
        tree = tree_of(words)
        places = Places.of(tree)
        store = open_store(tree, places)
        record = _failed(assemble(tree, store), store, reason, words)
        path = publish(record, tree, places, tracker_of(tree, store.trusted))
    except PoisonbenchError as error:
        return Cell(words=tuple(words), code=error.code, sentence=str(error))
    return Cell(words=tuple(words), code=FAILED, path=path)


def _run(tree: Mapping[str, object], places: Places, store: Store, words: Sequence[str], experiment: Experiment) -> tuple[Record, Path]:
    from poisonbench.runner.pipeline import run

    tracker = tracker_of(tree, store.trusted)
    try:
        record = dataclasses.replace(run(experiment, store), command=portable(words))
    except PoisonbenchError:
        raise
    except Exception as error:  # noqa: BLE001  # the runner alone turns an exception into a failed record
        traceback.print_exc()
        record = _failed(experiment, store, f"{type(error).__name__}: {error}", words)
    return record, publish(record, tree, places, tracker)


def _failed(experiment: Experiment, store: Store, reason: str, words: Sequence[str]) -> Record:
    from poisonbench.runner.pipeline import Line
    from poisonbench.runner.pipeline import record as recorded

    return dataclasses.replace(recorded(Line(experiment=experiment, store=store)), status="failed", reason=reason, command=portable(words))


def portable(words: Sequence[str]) -> str:
    """Write the command so that it runs elsewhere: a path of this machine becomes $DATA/<its last part>."""
    told = []
    for word in words:
        name, mark, value = word.partition("=")
        if local(word):
            continue
        if mark and ("/" in value or value.startswith(("~", "."))) and Path(os.path.expandvars(value)).expanduser().exists():
            told.append(f"{name}=$DATA/{Path(value).name}")
        else:
            told.append(shlex.quote(word) if set(word) & set(" []()*?;&|<>'\"") else word)
    return " ".join([PREFIX, *told])
