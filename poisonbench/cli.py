"""The command line: commands, single experiments and sweeps."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import hydra
from omegaconf import DictConfig
from rich.console import Console

from poisonbench import terminal
from poisonbench.commands import help, usage
from poisonbench.commands.usage import Usage
from poisonbench.config.build import build, check_targets, fitted
from poisonbench.config.compose import CONFIGS, cells_of, check_words, explaining, tree_of
from poisonbench.config.mistakes import COMPLETION, DRY, HELP, SWEEP, VERSION, parted, read_words
from poisonbench.core.errors import ConfigError, PoisonbenchError
from poisonbench.core.progress import heard
from poisonbench.storage.record import read, version
from poisonbench.sweep.audience import Crowd
from poisonbench.sweep.cell import DONE, INTERRUPTED, REFUSED, Outcome, computed
from poisonbench.sweep.engine import Engine
from poisonbench.trackers.save import leads

ENGINE_WORDS = ("engine", "workers", "cell_minutes", "trust", "hydra")


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
        if command is None:
            return _experiments(words)
        return _explained(command) if usage.asked(words[1:]) else command.main(words[1:])
    except PoisonbenchError as error:
        return _refuse(str(error), error.code)
    except KeyboardInterrupt:
        _say("interrupted; finished parts are in the store, and the same command continues from there")
        return INTERRUPTED


class Command(Protocol):
    """A module of `poisonbench.commands` that a word of the command line names."""

    USAGE: Usage
    main: Callable[[Sequence[str]], int]


def _command(words: Sequence[str]) -> Command | None:
    """Return the command that the first word names, if it names one."""
    if not words or not (CONFIGS.parent / "poisonbench" / "commands" / f"{words[0]}.py").is_file():
        return None
    module = importlib.import_module(f"poisonbench.commands.{words[0]}")
    return cast("Command", module) if hasattr(module, "main") else None


def _explained(command: Command) -> int:
    sys.stdout.write(f"{command.USAGE}\n")
    return DONE


def _experiments(words: Sequence[str]) -> int:
    check_words(words)
    flags, plain = parted(words)
    if set(flags) & set(HELP):
        return help.main(plain)
    if set(flags) & set(VERSION):
        sys.stdout.write(f"poisonbench {version()}\n")
        return DONE
    if not set(flags) & set(COMPLETION):
        read_words(plain, sweep=bool(set(flags) & set(SWEEP)))
    cells = _cells([flag for flag in flags if flag != DRY], plain)  # Hydra's parser wants flags before any override
    console = Console(quiet=not leads())
    if DRY in flags:
        return _foreseen(cells, console)
    alone = len(cells) == 1 and not any(word.startswith("engine") for word in cells[0])
    return _alone(cells[0], console) if alone else _together(cells, console)


def _cells(flags: Sequence[str], words: Sequence[str]) -> list[list[str]]:
    """Return the words of each experiment of a command line; none if a flag asks Hydra for information, such as --cfg job.

    Raises:
        ConfigError: words that Hydra refuses, explained in one sentence.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises the error, and we explain it
    if set(flags) <= set(SWEEP):
        return cells_of(words, sweep=bool(flags))

    @hydra.main(version_base="1.3", config_path=str(CONFIGS.resolve()), config_name="config")
    def job(_: DictConfig) -> None:
        """Do nothing: Hydra has printed the information."""

    with explaining(words), contextlib.redirect_stderr(io.StringIO()):
        sys.argv = [sys.argv[0], *flags, *words]
        job()
    return []


def _foreseen(cells: Sequence[Sequence[str]], console: Console) -> int:
    """Print which cells would run, which are in the store, and how long the rest may take; refused cells give exit code 2."""
    from poisonbench.sweep.dry_run import foreseen, show

    planned = list(foreseen(cells))
    show(console, planned)
    return REFUSED if any(cell.state == "refused" for cell in planned) else DONE


def _alone(words: Sequence[str], console: Console) -> int:
    with terminal.progress(console) as (listen, handler), heard(listen, handler):
        cell = computed(words)
    return _shown(cell, console)


def _together(cells: Sequence[Sequence[str]], console: Console) -> int:
    """Run the cells on the engine; without any cell there is nothing to do."""
    if not cells:
        return DONE
    name = time.strftime("%Y%m%d-%H%M%S")
    cells = [words if any(word.startswith("sweep=") for word in words) else [*words, f"sweep={name}"] for words in cells]
    engine = _engine(cells)
    if engine.threads and not any(word.startswith("threads=") for words in cells for word in words):
        console.print(f"each cell has its share of the cores: threads={engine.threads}", highlight=False)
        cells = [[*words, f"threads={engine.threads}"] for words in cells]
    with terminal.progress(console) as (listen, handler):
        crowd = Crowd(cells=len(cells), listen=listen, handler=handler, show=lambda cell: _shown(cell, console))
        done = engine.swept(cells, crowd)
    recorded = [(cell.path, cell.words) for cell in done if cell.path]
    terminal.show_sweep(console, [(read(path), path) for path, _ in recorded], [words for _, words in recorded])
    return max((cell.code for cell in done), default=DONE)


def _engine(cells: Sequence[Sequence[str]]) -> Engine:
    """Build the engine that all cells name."""
    asked = {tuple(word for word in words if word.partition("=")[0].partition(".")[0] in ENGINE_WORDS) for words in cells}
    if len(asked) != 1:
        raise ConfigError("workers, cell_minutes and engine are one of each for a whole sweep")
    tree = tree_of(list(*asked))  # no Setting: the folder of results is a matter of the cells
    return cast("Engine", fitted(build(tree["engine"], check_targets(tree, str(tree["trust"])), "engine"), Engine, "engine"))


def _shown(cell: Outcome, console: Console) -> int:
    """Print the outcome of a cell, and return its exit code."""
    if cell.path is None:
        return _refuse(cell.sentence, cell.code)
    if leads():
        terminal.show_record(console, read(cell.path), cell.path)
    return cell.code


def _refuse(sentence: str, code: int = REFUSED) -> int:
    _say(f"poisonbench: {sentence}")
    return code


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
