"""`audit task=... defense=...`: vet a training set that nobody has attacked on purpose, as far as anyone knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from poisonbench import screen
from poisonbench.assemble import HOME, Places, assemble, open_store
from poisonbench.commands.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import heard
from poisonbench.report.tables import published
from poisonbench.report.vetting import Vetted, agreement, statement, write

if TYPE_CHECKING:
    from poisonbench.core.defense import Verdict

USAGE = 'audit task=image_folder task.root=DIR defense=spectral, or "defense=[spectral,activation_clustering]": name the rows and the filters'


def main(words: Sequence[str]) -> int:
    """Let filters judge the training rows, with no attack and no claim to know one.

    Raises:
        ConfigError: no filter named, or a defense that judges no rows.
    """
    named = [word for word in words if word.startswith("defense=")]
    if len(named) != 1:
        raise ConfigError(USAGE)
    rest = [word for word in words if word not in named]
    filters = [name.strip() for name in named[0].removeprefix("defense=").strip("[]").split(",")]
    trusted = [] if any(word.startswith("task.trusted=") for word in rest) else ["task.trusted=0"]
    console = Console()
    tree = tree_of([*trusted, *rest])
    folder = Places.of(tree).results / "audit"
    with screen.progress(console) as (listen, handler), heard(listen, handler):
        vetted = judged([*trusted, *rest], filters)
    folder = folder / vetted.task.name
    written = write(vetted, folder)
    console.print(_table(vetted))
    for line in (*agreement(vetted), *(f"{name}: {told}" for name, told in vetted.statements.items()), *map(str, written)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def judged(words: Sequence[str], filters: Sequence[str]) -> Vetted:
    """Return the verdict of every filter on the training rows; they share the victim that their features come from."""
    from poisonbench.pipeline import Line

    verdicts, task = dict[str, "Verdict"](), None
    records = published(HOME / "results" / "records")
    for name in filters:
        tree = tree_of([*words, "attack=none", f"defense={name}"])
        experiment = assemble(tree, store := open_store(tree, Places.of(tree)))
        line = Line(experiment=experiment, store=store)
        verdict = line.judge(line.strike())
        if verdict is None:
            raise ConfigError(f"defense={name} judges no training rows; choose a filter: see `list defense`")
        verdicts[name], task = verdict, experiment.task
    assert task is not None
    return Vetted(task=task, verdicts=verdicts, statements={name: statement(name, records) for name in filters})


def _table(vetted: Vetted) -> Table:
    table = Table(title=f"{len(vetted.task.train)} rows of {vetted.task.name}", title_justify="left")
    for column in ("filter", "removes", "share", "most in class"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    labels = vetted.task.train.labels
    kinds = vetted.task.class_names or tuple(map(str, range(vetted.task.train.num_classes)))
    share: Callable[[int], str] = lambda count: f"{100 * count / len(labels):.1f} %"  # noqa: E731
    for name, verdict in vetted.verdicts.items():
        removed = labels[~verdict.keep]
        most = kinds[int(removed.bincount().argmax())] if len(removed) else ""
        table.add_row(name, str(len(removed)), share(len(removed)), most)
    return table
