"""`audit task=... defense=...`: let filters search a data set of yours for suspicious rows; poisonbench attacks nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from poisonbench import terminal
from poisonbench.commands.usage import RESULTS_DIR, TRUST, Usage
from poisonbench.config.compose import tree_of
from poisonbench.config.mistakes import SEARCH
from poisonbench.config.setting import Setting
from poisonbench.config.vocabulary import CONFIGS, Loader, keys, options
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.plugins import HOME
from poisonbench.core.progress import heard
from poisonbench.core.trees import value_at
from poisonbench.report.tables import published
from poisonbench.report.vetting import Vetted, agreement, calibrated, certainly, leaked, statement, swapped, too_small, wholly_named, with_leaks, write

if TYPE_CHECKING:
    from poisonbench.core.defense import Sanitizer, Verdict
    from poisonbench.runner.experiment import Experiment
    from poisonbench.runner.stages import Line
    from poisonbench.storage.store import Store

SHARE = 0.05  # of clean rows
FIRST = 12  # rows that the terminal shows
EPOCHS, MOST = 4, 100_000  # of the short training; see `poisonbench.core.short`
USAGE = Usage(
    call='audit task=NAME [task.KEY=VALUE...] [defense=FILTER, or "defense=[FILTER,FILTER]"]',
    does=(
        "Without defense=, every filter that states what it finds is run if it fits the rows, and each other one is named with the reason. "
        "Let filters rank the training rows of a data set, most suspicious first. The rows are not attacked, and no test rows are needed. All rows "
        "are written to suspects.csv and suspects.parquet, and a page of the first rows to index.html, in results_dir/audit/TASK-DIGEST: a folder for "
        "each set of rows and each set of options."
    ),
    options={
        "task=image_folder": "the kind of data set; `list task` names all kinds, `describe image_folder` shows the keys of this one",
        "task.root=DIR": "the folder of the rows, for pictures with train/CLASS/*.png in it; the other keys of the task may be set too",
        "task.trusted=0": "share of the rows that you know to be clean, for filters that need some; these rows are not judged",
        "task.test=0": "share of the rows that are not judged because they are held out for tests; 0 judges all",
        "defense=FILTER": "the filter, such as spectral, activation_clustering, knn_outlier or deep_knn: any defense from `list defense` that judges rows",
        '"defense=[FILTER,FILTER]"': "several filters; some use a model that was trained for a few epochs, all others share one model",
        f"short={EPOCHS}": "epochs of the short training, 1 or more",
        f"share={SHARE}": "a row is named if at most this share of clean rows is as suspicious; with defense=, if a filter removes it, unless you give share=",
        "defense.sanitize.KEY=VALUE": "a setting of the filter, see `describe FILTER`; with several filters, a setting that each of them has",
        "threat.budget.rate=0.05": "share of poisoned rows that the filters expect",
        "net=NAME, learner=NAME": "the network whose features the filters use, and how it is trained; for the keys of each see `describe NAME`",
        "seed=0, salt=null": "seed of the random draws, and an extra value that is mixed into them",
        "device=auto, threads=0": "where the network is trained: cpu, cuda or auto; number of CPU threads, 0 is one per core",
        "apply=OUT": (
            "write the rows that are not named into the new folder OUT, in the format of their files, with a list of the others, dropped.csv; "
            "every row has to be judged, so it is refused with task.limit or task.test"
        ),
        **RESULTS_DIR,
        **{name: meaning for name, meaning in TRUST.items() if name != "task.download=true"},
    },
)
DEFAULTS = ("task.trusted=0", "task.test=0", "task.duplicates=allow")


def main(words: Sequence[str]) -> int:
    """Let filters judge the training rows as they are, without an attack.

    Raises:
        ConfigError: no filter is named, or a defense that judges no rows.
    """
    named, asked, outs, limits = ([word for word in words if word.startswith(start)] for start in ("defense=", "short=", "apply=", "share="))
    rest = [word for word in words if word not in named + asked + outs + limits]
    if len(named) > 1 or not any(word.startswith("task=") for word in rest):
        raise ConfigError(f"{USAGE.call}: give the task, and defense= at most once; `audit --help` explains every word")
    if attacks := [word for word in rest if word.lstrip("+~").partition("=")[0].partition(".")[0] == "attack"]:
        raise ConfigError(f"{attacks[0]}: an audit judges the rows as they are, without an attack; leave this word out")
    epochs, limit = epochs_of(asked), limit_of(limits, by_default=None if named else SHARE)
    filters = filters_of(named[0]) if named else suite_names()
    settings = settings_of(with_defaults(rest), filters)
    kept = keeper(settings[filters[0]], outs)
    console = Console()
    folder = settings[filters[0]].places.results / "audit"
    with terminal.progress(console) as (listen, handler), heard(listen, handler):
        vetted = judged(settings, epochs=epochs, limit=limit, suite=not named)
    written = write(vetted, folder / vetted.folder)
    console.print(_table(vetted))
    console.print(_first(vetted))
    statements = [f"{name}: {statement}" for name, statement in vetted.statements.items()]
    left = [f"{name} was not run: {reason}" for name, reason in vetted.unfit.items()]
    short = [f"{' and '.join(vetted.short)} used a model that was trained for {epochs} epochs"] if vetted.short else []
    written += kept(vetted) if kept else []
    said = [*statements, *agreement(vetted)] if named else []
    found = [*certainly(vetted), *calibrated(vetted), *swapped(vetted), *leaked(vetted), *too_small(vetted), *wholly_named(vetted)]
    for line in (*left, *short, *found, *said, *map(str, written)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def keeper(setting: Setting, words: Sequence[str]) -> Callable[[Vetted], list[Path]] | None:
    """Return what writes the kept rows for `apply=OUT`; None without this word.

    Raises:
        PoisonbenchError: a folder or a source that does not allow it.
    """
    if not words:
        return None
    if len(words) > 1:
        raise ConfigError(f"{' '.join(words)}: name one folder for the kept rows")
    from poisonbench.config.build import build
    from poisonbench.report.keeping import destination, write_kept
    from poisonbench.tasks.source import Writable

    source = cast("Writable", build(setting.tree["task"], setting.store.trusted, "task"))
    out = destination(source, words[0].removeprefix("apply="))

    def write_out(vetted: Vetted) -> list[Path]:
        ids, flagged = vetted.task.train.ids.tolist(), vetted.named.nonzero()[:, 0].tolist()
        names = {row: ", ".join(name for name, verdict in vetted.verdicts.items() if not verdict.keep[row]) for row in flagged}
        reasons = {ids[row]: vetted.reason(row) or names[row] for row in flagged}
        return list(write_kept(source, vetted.task, reasons, out, setting.store))

    return write_out


def epochs_of(asked: Sequence[str]) -> int:
    """Return the number of epochs that the words ask for.

    Raises:
        ConfigError: two such words, or no whole number of at least 1.
    """
    value = asked[-1].partition("=")[2] if asked else str(EPOCHS)
    if len(asked) > 1 or not value.isdecimal() or not 0 < int(value) <= MOST:
        raise ConfigError(f"{' '.join(asked)}: give one whole number from 1 to {MOST}, such as short={EPOCHS}")
    return int(value)


def limit_of(asked: Sequence[str], *, by_default: float | None) -> float | None:
    """Return the largest share of clean rows that may look as suspicious as a row that is named.

    Raises:
        ConfigError: two such words, or no number in (0, 1).
    """
    if not asked:
        return by_default
    value = asked[-1].partition("=")[2]
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if len(asked) > 1 or not 0 < share < 1:
        raise ConfigError(f"{' '.join(asked)}: give one number between 0 and 1, such as share={SHARE}")
    return share


def filters_of(word: str) -> list[str]:
    """Return the filters that `defense=` names.

    Raises:
        ConfigError: brackets that do not match, or a filter twice.
    """
    value = word.removeprefix("defense=")
    whole = value.startswith("[") == value.endswith("]")
    names = [name.strip() for name in value.removeprefix("[").removesuffix("]").split(",")]
    if not whole or any(mark in name for name in names for mark in "[]") or len({*names}) < len(names):
        raise ConfigError(f'{word}: give each filter once, as defense=FILTER or "defense=[FILTER,FILTER]"')
    return names


def suite_names() -> list[str]:
    """Return the names of all filters that state with FINDS what they find."""
    from poisonbench.core.plugins import OWN, adopt_own_packages, find_class

    adopt_own_packages()
    found = []
    for name in options("defense"):
        target = str(value_at(yaml.load((CONFIGS / "defense" / f"{name}.yaml").read_text(encoding="utf-8"), Loader), ("sanitize", "_target_")))
        if target.startswith(OWN) and hasattr(find_class(target, OWN), "FINDS"):
            found.append(name)
    return found


def with_defaults(words: Sequence[str]) -> list[str]:
    """Return the words, preceded by the defaults of an audit that they do not replace and whose keys the task has: passages have no task.test."""
    given = {word.partition("=")[0] for word in words}
    known = {*keys(tree_of([word for word in words if word.startswith(("task=", SEARCH))])["task"], "task")}
    return [*(word for word in DEFAULTS if word.partition("=")[0] in known - given), *words]


def settings_of(words: Sequence[str], filters: Sequence[str]) -> dict[str, Setting]:
    """Return the setting of each filter, by its name.

    Raises:
        ConfigError: one sentence on the first mistake.
    """
    return {name: Setting.of([*words, "attack=none", f"defense={name}"]) for name in filters}


def judged(settings: Mapping[str, Setting], *, epochs: int = EPOCHS, limit: float | None = None, suite: bool = False) -> Vetted:
    """Return the verdict of every filter on the training rows; filters that read the same victim share it.

    Args:
        settings: one for each filter, by its name.
        epochs: of the short victim.
        limit: the largest share of clean rows that may be as suspicious as a named row; None: a row is named if a filter removes it.
        suite: leave a filter out, with the reason, if it cannot judge these rows, and use the settings that filters state for an audit.

    Raises:
        ConfigError: a defense that judges no rows, or no filter that fits.
        Incompatible: a filter that cannot judge these rows.
    """
    from poisonbench.core.classwise import judges_classes
    from poisonbench.core.files import file_digest
    from poisonbench.core.keys import key
    from poisonbench.core.short import ShortVictim, finds, suited, unchanged
    from poisonbench.report.joint import CLEAN
    from poisonbench.runner.check import check_training
    from poisonbench.runner.experiment import assemble
    from poisonbench.runner.spec import spec

    lines, unfit, task = dict[str, "Line"](), dict[str, str](), None
    for name, setting in settings.items():
        try:
            experiment = assemble(setting.tree, setting.store, task=task)
            line = _line(experiment, setting.store, name, (suited if suite else unchanged)(experiment.defense.sanitize), epochs)
            task = line.experiment.task
            check_training(line)
            lines[name] = line
        except (ConfigError, Incompatible) as error:
            if not suite or task is None:
                raise
            unfit[name] = str(error)
    if task is None or not lines:
        raise ConfigError(f"no filter fits these rows: {'; '.join(f'{name}: {reason}' for name, reason in unfit.items())}")
    verdicts, asked = dict[str, "Verdict"](), {name: line.experiment for name, line in lines.items()}
    found = {name: find for name, line in lines.items() if (find := finds(line.experiment.defense.sanitize)) is not None}
    for name, line in lines.items():
        try:
            verdicts[name] = _verdict(line, with_test=name in found and found[name].kind == "duplicate")
        except (ConfigError, Incompatible) as error:
            if not suite:
                raise
            unfit[name] = str(error)
    if not verdicts:
        raise ConfigError(f"no filter can judge these rows: {'; '.join(f'{name}: {reason}' for name, reason in unfit.items())}")
    records = published(HOME / "results" / "records")
    return Vetted(
        task=task,
        verdicts=verdicts,
        statements={name: statement(name, records) for name in verdicts},
        unfit=unfit,
        short=[name for name, experiment in asked.items() if isinstance(experiment.defense.sanitize, ShortVictim)],
        held=[name for name, experiment in asked.items() if judges_classes(experiment.defense.sanitize)],
        asked=key(
            {name: spec(experiment) for name, experiment in asked.items()},
            task.class_names,
            task.row_names,
            *([task.test_names] if task.test_names else []),
            limit,
            file_digest(CLEAN),
        ),
        finds=found,
        limit=limit,
    )


def _verdict(line: Line, *, with_test: bool) -> Verdict:
    """Return the verdict of a filter on the training rows; with the test rows, those that copy one are dropped too (`with_leaks`)."""
    rows, test = line.received(), line.experiment.task.test
    verdict = line.judge(rows)
    assert verdict is not None, "the filter gave no verdict"
    if not with_test or not len(test) or test.columns.keys() != rows.data.columns.keys():
        return verdict
    before = test.with_columns(test.columns | {"ids": test.ids + int(rows.data.ids.max()) + 1})
    behind = line.judge(dataclasses.replace(rows, data=dataclasses.replace(before, ask=rows.data.ask).append(rows.data)))
    assert behind is not None, "the filter gave no verdict"
    return with_leaks(verdict, behind, len(test))


def _line(experiment: Experiment, store: Store, name: str, sanitize: Sanitizer, epochs: int) -> Line:
    """Return the stages of one filter, limited to the classes that it can judge and on the victim that serves it.

    Raises:
        ConfigError: the defense is not a filter.
    """
    from poisonbench.core.classwise import held_to_large
    from poisonbench.core.defense import KeepAll
    from poisonbench.core.short import served
    from poisonbench.runner.stages import Line

    if sanitize == KeepAll():
        raise ConfigError(f"defense={name} judges no training rows; choose a filter from `list defense`, such as spectral")
    held = held_to_large(served(sanitize, epochs), experiment.task.train)
    return Line(experiment=dataclasses.replace(experiment, defense=dataclasses.replace(experiment.defense, sanitize=held)), store=store)


def _first(vetted: Vetted) -> Table:
    """Return the most suspicious rows with their reasons."""
    rows = vetted.order[:FIRST]
    table = Table(title=f"{int(vetted.named.sum())} rows are named; the first {len(rows)} of all", title_justify="left")
    for column in ("row", "label", "kind", "clean rows as suspicious", "because"):
        table.add_column(column, justify="right" if column.startswith("clean") else "left", overflow="fold")
    for row in rows:
        label = vetted.classes[int(vetted.task.train.labels[row])]
        cells = (vetted.called(row), label, vetted.kinds[row], f"{100 * float(vetted.share[row]):.3g} %", vetted.reason(row))
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _table(vetted: Vetted) -> Table:
    table = Table(title=f"{len(vetted.task.train)} rows of {vetted.task.name}", title_justify="left")
    for column in ("filter", "removes", "share", "most in class"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    labels = vetted.task.train.labels
    share: Callable[[int], str] = lambda count: f"{100 * count / len(labels):.1f} %"  # noqa: E731
    for name, verdict in vetted.verdicts.items():
        removed = labels[~verdict.keep]
        most = vetted.classes[int(removed.bincount().argmax())] if len(removed) else ""
        table.add_row(name, str(len(removed)), share(len(removed)), most)
    return table
