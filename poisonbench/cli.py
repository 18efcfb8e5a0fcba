"""The command line: words to a configuration, to an experiment, to a record, to a small table."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from poisonbench import screen
from poisonbench.cell import DONE, INTERRUPTED, REFUSED, Cell, computed
from poisonbench.commands.compose import CONFIGS, explained
from poisonbench.core.errors import ConfigError, PoisonbenchError
from poisonbench.core.progress import heard
from poisonbench.publish import leads
from poisonbench.record import read
from poisonbench.sweep import Crowd, swept


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
    cells: list[Sequence[str]] = []

    @hydra.main(version_base="1.3", config_path=str(CONFIGS.resolve()), config_name="config")
    def job(_: DictConfig) -> None:
        overrides = HydraConfig.get().overrides
        searched = [word for word in overrides.hydra if word.startswith("hydra.searchpath")]
        cells.append([*searched, *overrides.task])

    with tempfile.TemporaryDirectory() as folder:  # Hydra writes a multirun.yaml full of this machine's paths
        sys.argv = [sys.argv[0], *words, f"hydra.sweep.dir={folder}"]
        job()
    console = Console(quiet=not leads())
    return _alone(cells[0], console) if len(cells) == 1 else _together(cells, console)


def _alone(words: Sequence[str], console: Console) -> int:
    with screen.progress(console) as (listen, handler), heard(listen, handler):
        cell = computed(words)
    return _shown(cell, console)


def _together(cells: Sequence[Sequence[str]], console: Console) -> int:
    """Run many cells in processes of their own; a sweep of none is done."""
    asked = {name: value for words in cells for name, _, value in (word.partition("=") for word in words)}
    try:
        workers, minutes = int(asked.get("workers", 1)), None if asked.get("cell_minutes", "null") == "null" else float(asked["cell_minutes"])
        good = workers >= 1 and (minutes is None or minutes > 0)
    except ValueError:
        good = False
    if not good:
        raise ConfigError("workers is a number of processes from 1, cell_minutes a time above 0 or null; one of each for a whole sweep")
    if workers > 1 and asked.get("threads", "0") == "0":
        each = max(1, (os.cpu_count() or 1) // workers)
        console.print(f"{workers} workers share the cores: threads={each}", highlight=False)
        cells = [[*words, f"threads={each}"] for words in cells]
    with screen.progress(console) as (listen, handler):
        crowd = Crowd(cells=len(cells), listen=listen, handler=handler, show=lambda cell: _shown(cell, console))
        done = swept(cells, crowd, workers=workers, minutes=minutes)
    screen.show_sweep(console, [(read(cell.path), cell.path) for cell in done if cell.path])
    return max((cell.code for cell in done), default=DONE)


def _shown(cell: Cell, console: Console) -> int:
    """Print what became of a cell, and return its code."""
    if cell.path is None:
        return _refuse(cell.sentence, cell.code)
    if leads():
        screen.show_record(console, read(cell.path), cell.path)
    return cell.code


def _refuse(sentence: str, code: int = REFUSED) -> int:
    _say(f"poisonbench: {sentence}")
    return code


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
