"""This version against an older one: the same commands, in turns, each in its own checkout."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks._commands import HOME, checkout, poisonbench
from benchmarks._options import Options
from benchmarks._timing import in_turns
from poisonbench.core.errors import ConfigError
from poisonbench.report.benchmarks import Comparison


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command.

    Args:
        work: what it does.
        words: its command line.
        fresh: whether each repetition starts from an empty results folder; otherwise all repetitions of a version share one, and the first does
            not count.
        results: whether the command accepts results_dir=.
    """

    work: str
    words: tuple[str, ...]
    fresh: bool = False
    results: bool = True

    @property
    def sweeps(self) -> bool:
        """Whether worker processes compute; their processor time is not known."""
        return self.words[0] == "-m" and "--dry-run" not in self.words


CELL = ("attack=backdoor", "defense=spectral", "seed=100")
GRID = ("attack=none,backdoor,blended,sig", "defense=none,spectral,random_drop", "seed=range(100,105)", "threads=1")
PAIRS = ("attack=none,backdoor,blended", "defense=none,spectral,random_drop", "seed=100,101", "learner.epochs=4", "workers=2")
CASES = (
    Case(work="a word that is refused", words=("attack=bakdoor",), results=False),
    Case(work="--help", words=("--help",), results=False),
    Case(work="describe badnets", words=("describe", "badnets"), results=False),
    Case(work="a page from the committed records", words=("report", "PAGE"), results=False),
    Case(work="a run found whole in the store", words=(*CELL, "threads=1")),
    Case(work="the plan of a sweep of 60 cells", words=("-m", "--dry-run", *GRID)),
    Case(work="a finished sweep of 60 cells", words=("-m", *GRID, "learner.epochs=1")),
    Case(work="the first example from an empty store", words=CELL, fresh=True),
    Case(work="a sweep of 18 cells, 4 epochs each, two workers, from an empty store", words=("-m", *PAIRS), fresh=True),
)


def measure(options: Options, *, cases: tuple[Case, ...] = CASES, repeats: int = 5) -> Iterator[Comparison]:
    """Yield one comparison for each command.

    Raises:
        ConfigError: the commit to compare with does not exist.
    """
    try:
        with checkout(options.commit) as other, tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.md"
            page.write_text("<!-- records: digits -->\n<!-- end -->\n", encoding="utf-8")
            for number, case in enumerate(cases):
                words = tuple(str(page) if word == "PAGE" else word for word in case.words)
                ours, theirs = (_work(case, words, home, Path(folder) / f"{side}-{number}") for side, home in (("ours", HOME), ("theirs", other)))
                costs = in_turns(ours, theirs, repeats=repeats, warm_up=not case.fresh)
                yield Comparison(
                    work=case.work,
                    ours=f"python -m poisonbench {' '.join(case.words)}",
                    alternative=f"the same at {options.commit}",
                    unit="s",
                    ours_cost=costs.ours,
                    alternative_cost=costs.alternative,
                    facts={} if case.sweeps else costs.cpu,
                )
    except ValueError as error:
        raise ConfigError(f"benchmark against: {error}; give --commit") from error


@dataclass(frozen=True)
class _Repeated:
    """A command that is run several times; a fresh one in a new folder each time."""

    words: tuple[str, ...]
    home: Path
    folders: Iterator[Path]

    def __call__(self) -> None:
        chosen = [f"results_dir={folder}" for folder in itertools.islice(self.folders, 1)]
        poisonbench(*self.words, *chosen, home=self.home)()


def _work(case: Case, words: tuple[str, ...], home: Path, folder: Path) -> _Repeated:
    fresh = (folder / str(number) for number in itertools.count())
    return _Repeated(words, home, fresh if case.fresh else itertools.repeat(folder) if case.results else iter(()))
