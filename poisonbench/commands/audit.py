"""`audit task=... defense=...`: let filters search a data set of yours for suspicious rows; poisonbench attacks nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.table import Table

from poisonbench import terminal
from poisonbench.commands.usage import RESULTS_DIR, TRUST, Usage
from poisonbench.config.compose import tree_of
from poisonbench.config.mistakes import SEARCH
from poisonbench.config.setting import Setting
from poisonbench.config.vocabulary import keys
from poisonbench.core.errors import ConfigError
from poisonbench.core.plugins import HOME
from poisonbench.core.progress import heard
from poisonbench.report.tables import published
from poisonbench.report.vetting import Vetted, agreement, statement, too_small, wholly_named, write

if TYPE_CHECKING:
    from poisonbench.core.defense import Verdict
    from poisonbench.runner.experiment import Experiment
    from poisonbench.storage.store import Store

USAGE = Usage(
    call='audit task=NAME [task.KEY=VALUE...] defense=FILTER, or "defense=[FILTER,FILTER]"',
    does=(
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
        '"defense=[FILTER,FILTER]"': "several filters; all use the features of the same model",
        "defense.sanitize.KEY=VALUE": "a setting of the filter, see `describe FILTER`; with several filters, a setting that each of them has",
        "threat.budget.rate=0.05": "share of poisoned rows that the filters expect",
        "net=NAME, learner=NAME": "the network whose features the filters use, and how it is trained; for the keys of each see `describe NAME`",
        "seed=0, salt=null": "seed of the random draws, and an extra value that is mixed into them",
        "device=auto, threads=0": "where the network is trained: cpu, cuda or auto; number of CPU threads, 0 is one per core",
        "apply=OUT": "write the rows that no filter names into the new folder OUT, in the format of their files, with a list of the others, dropped.csv",
        **RESULTS_DIR,
        **{name: meaning for name, meaning in TRUST.items() if name != "task.download=true"},
    },
)
DEFAULTS = ("task.trusted=0", "task.test=0")


def main(words: Sequence[str]) -> int:
    """Let filters judge the training rows as they are, without an attack.

    Raises:
        ConfigError: no filter is named, or a defense that judges no rows.
    """
    named = [word for word in words if word.startswith("defense=")]
    if len(named) != 1:
        raise ConfigError(f"{USAGE.call}: give defense= exactly once, and the task; `audit --help` explains every word")
    outs = [word for word in words if word.startswith("apply=")]
    rest = [word for word in words if word not in named + outs]
    if attacks := [word for word in rest if word.lstrip("+~").partition("=")[0].partition(".")[0] == "attack"]:
        raise ConfigError(f"{attacks[0]}: an audit judges the rows as they are, without an attack; leave this word out")
    filters = [name.strip() for name in named[0].removeprefix("defense=").strip("[]").split(",")]
    settings = settings_of(with_defaults(rest), filters)
    kept = keeper(settings[filters[0]], outs)
    console = Console()
    folder = settings[filters[0]].places.results / "audit"
    with terminal.progress(console) as (listen, handler), heard(listen, handler):
        vetted = judged(settings)
    written = write(vetted, folder / vetted.folder)
    console.print(_table(vetted))
    statements = [f"{name}: {statement}" for name, statement in vetted.statements.items()]
    written += kept(vetted) if kept else []
    for line in (*too_small(vetted), *wholly_named(vetted), *agreement(vetted), *statements, *map(str, written)):
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
        ids, flagged = vetted.task.train.ids.tolist(), vetted.votes.nonzero()[:, 0].tolist()
        reasons = {ids[row]: ", ".join(name for name, verdict in vetted.verdicts.items() if not verdict.keep[row]) for row in flagged}
        return list(write_kept(source, vetted.task, reasons, out, setting.store))

    return write_out


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


def judged(settings: Mapping[str, Setting]) -> Vetted:
    """Return the verdict of every filter on the training rows; all filters use the features of the same victim.

    Args:
        settings: one for each filter, by its name.

    Raises:
        ConfigError: a defense that judges no rows.
    """
    from poisonbench.core.classwise import judges_classes
    from poisonbench.core.keys import key
    from poisonbench.runner.experiment import assemble
    from poisonbench.runner.spec import spec

    verdicts, asked, task = dict[str, "Verdict"](), dict[str, "Experiment"](), None
    for name, setting in settings.items():
        asked[name] = assemble(setting.tree, setting.store, task=task)
        verdicts[name], task = _verdict(asked[name], setting.store, name), asked[name].task
    assert task is not None
    records = published(HOME / "results" / "records")
    return Vetted(
        task=task,
        verdicts=verdicts,
        statements={name: statement(name, records) for name in verdicts},
        held=[name for name, experiment in asked.items() if judges_classes(experiment.defense.sanitize)],
        asked=key({name: spec(experiment) for name, experiment in asked.items()}, task.class_names, task.row_names),
    )


def _verdict(experiment: Experiment, store: Store, name: str) -> Verdict:
    """Return the verdict of one filter on the training rows.

    Raises:
        ConfigError: the defense is not a filter.
        PoisonbenchError: the filter cannot judge these rows, or cannot use this learner.
    """
    from poisonbench.core.classwise import held_to_large
    from poisonbench.core.defense import KeepAll
    from poisonbench.runner.check import check_training
    from poisonbench.runner.stages import Line

    held = held_to_large(experiment.defense.sanitize, experiment.task.train)
    line = Line(experiment=dataclasses.replace(experiment, defense=dataclasses.replace(experiment.defense, sanitize=held)), store=store)
    if held == KeepAll():
        raise ConfigError(f"defense={name} judges no training rows; choose a filter from `list defense`, such as spectral")
    check_training(line)
    verdict = line.judge(line.received())
    assert verdict is not None, "the filter gave no verdict"
    return verdict


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
