"""The command line: words to a configuration, to an experiment, to a record, to a small table."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from poisonbench import screen
from poisonbench.assemble import Places, assemble, open_store
from poisonbench.commands.compose import CONFIGS, explained, tree_of
from poisonbench.core.errors import PoisonbenchError
from poisonbench.core.progress import listening
from poisonbench.publish import leads, publish, tracker_of
from poisonbench.record import Record

if TYPE_CHECKING:
    from poisonbench.store import Store

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
LOCAL_WORDS = ("results_dir", "publish", "tracker", "threads", "device")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep: what came out, and where its record lies."""

    code: int
    record: Record | None = None
    path: Path | None = None


def main() -> None:
    """Run the words of the command line and exit with their code."""
    code = entry(sys.argv[1:])
    if code == INTERRUPTED:
        # an interrupt that passed through some extension modules counts as unhandled: Python would die of the signal instead
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def entry(words: Sequence[str]) -> int:
    """Run a command, or an experiment, and return the exit code."""
    try:
        command = _command(words)
        return command(words[1:]) if command else _experiments(words)
    except PoisonbenchError as error:
        return _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explained(error, [word for word in words if not word.startswith("-")]))
    except KeyboardInterrupt:
        _say("interrupted; what was finished lies in the store, and the same command goes on from there")
        return INTERRUPTED


def _command(words: Sequence[str]) -> Callable[[Sequence[str]], int] | None:
    """Return the command that the first word names, if it names one."""
    if not words or not (CONFIGS.parent / "poisonbench" / "commands" / f"{words[0]}.py").is_file():
        return None
    return getattr(importlib.import_module(f"poisonbench.commands.{words[0]}"), "main", None)


def _experiments(words: Sequence[str]) -> int:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises, and the sentence is ours to say
    cells: list[Cell] = []

    @hydra.main(version_base="1.3", config_path=str(CONFIGS.resolve()), config_name="config")
    def job(_: DictConfig) -> None:
        overrides = HydraConfig.get().overrides
        searched = [word for word in overrides.hydra if word.startswith("hydra.searchpath")]
        cells.append(cell([*searched, *overrides.task]))

    with tempfile.TemporaryDirectory() as folder:  # Hydra writes a multirun.yaml full of this machine's paths
        sys.argv = [sys.argv[0], *words, f"hydra.sweep.dir={folder}"]
        job()
    if len(cells) > 1 and leads():
        screen.show_sweep(Console(), [(cell.record, cell.path) for cell in cells if cell.record and cell.path])
    return max((cell.code for cell in cells), default=DONE)


def cell(words: Sequence[str]) -> Cell:
    """Run one experiment, write its record, print its table."""
    console = Console(quiet=not leads())
    try:
        tree = tree_of(words)
        places = Places.of(tree)
        store = open_store(tree, places)
        with _told(console):
            record, path = _run(tree, places, store, words)
    except PoisonbenchError as error:
        return Cell(code=_refuse(str(error)))
    screen.show_record(console, record, path)
    return Cell(code=FAILED if record.status == "failed" else DONE, record=record, path=path)


def _run(tree: Mapping[str, object], places: Places, store: Store, words: Sequence[str]) -> tuple[Record, Path]:
    from poisonbench.pipeline import Line, run
    from poisonbench.pipeline import record as recorded

    experiment = assemble(tree, store)
    tracker = tracker_of(tree, store.trusted)
    try:
        record = run(experiment, store)
    except PoisonbenchError:
        raise
    except Exception as error:  # noqa: BLE001  # the runner alone turns an exception into a failed record
        traceback.print_exc()
        record = dataclasses.replace(recorded(Line(experiment=experiment, store=store)), status="failed", reason=f"{type(error).__name__}: {error}")
    record = dataclasses.replace(record, command=portable(words))
    return record, publish(record, tree, places, tracker)


def portable(words: Sequence[str]) -> str:
    """Write the command so that it runs elsewhere: a path of this machine becomes $DATA/<its last part>."""
    told = []
    for word in words:
        name, mark, value = word.partition("=")
        if name in LOCAL_WORDS:
            continue
        if mark and ("/" in value or value.startswith(("~", "."))) and Path(os.path.expandvars(value)).expanduser().exists():
            told.append(f"{name}=$DATA/{Path(value).name}")
        else:
            told.append(shlex.quote(word) if set(word) & set(" []()*?;&|<>'\"") else word)
    return " ".join(["python -m poisonbench", *told])


@contextlib.contextmanager
def _told(console: Console) -> Iterator[None]:
    """Show progress and the store's log while the block runs."""
    log = logging.getLogger("poisonbench")
    with screen.progress(console) as (listen, handler):
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # some libraries give the root logger a handler of its own when they are imported
        try:
            with listening(listen):
                yield
        finally:
            log.removeHandler(handler)
            log.propagate = True


def _refuse(sentence: str) -> int:
    _say(f"poisonbench: {sentence}")
    return REFUSED


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
