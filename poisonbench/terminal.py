"""Output on the terminal: progress during a run, and a small table after it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.control import strip_control_codes
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from poisonbench.core.progress import Listen
from poisonbench.report.figures import counted, goal, is_share, malicious, over_targets, radii, relation
from poisonbench.storage.record import Part, Record

PLAIN_SECONDS, SLOW_SECONDS = 10.0, 600.0
UNITS = ("epochs", "rounds")  # steps of a training, as progress labels name them
PARTS: tuple[Part, ...] = ("baseline", "undefended", "metrics")  # of a record, by the columns of its table
ROWS = (("C-Acc", "c_acc"), ("ASR", "asr"), ("R-Acc", "r_acc"))
SHOWN = {"attack", "defense", "threat.budget.rate", "threat.budget.count", "seed"}  # keys with a column of their own in the table of a sweep


class _Lines(logging.Handler):
    """Print log records through the console, so that they do not break a progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if self._console.is_terminal:
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            self._console.print(record.getMessage(), style=style, markup=False, highlight=False, soft_wrap=True)
        elif not self._console.quiet:  # plain text takes a tenth of the time; a sweep whose values are all stored mostly prints
            self._console.file.write(f"{strip_control_codes(record.getMessage())}\n")
            self._console.file.flush()


@contextlib.contextmanager
def progress(console: Console) -> Iterator[tuple[Listen, logging.Handler]]:
    """Yield a listener that shows progress, as bars on a terminal and else as occasional lines, and a handler for logs."""
    handler = _Lines(console)
    if not console.is_terminal:
        yield _warned(_plain(console), console), handler
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        known: dict[str, TaskID] = {}

        def listen(label: str, done: int, total: int) -> None:
            if label not in known:
                known[label] = bars.add_task(escape(label), total=total)
            bars.update(known[label], completed=done, total=total)
            if done == total:
                bars.remove_task(known.pop(label))

        yield _warned(listen, console), handler


Hear: TypeAlias = Callable[[str, int, int, float], None]  # like Listen, with the estimated seconds left


def _timed(hear: Hear) -> Listen:
    """Return a listener that adds the estimated seconds left; 0 until the first step is done."""
    began: dict[str, float] = {}

    def listen(label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0 or label not in began:
            began[label] = now
        hear(label, done, total, (now - began[label]) * (total - done) / max(done, 1))

    return listen


def _plain(console: Console) -> Listen:
    last = [time.monotonic()]

    def hear(label: str, done: int, total: int, left: float) -> None:
        first = done == 1 and left >= PLAIN_SECONDS
        if done and (first or time.monotonic() - last[0] >= PLAIN_SECONDS):
            last[0] = time.monotonic()
            console.print(f"{label}: {done}/{total}{f', about {span(left)} left' if left else ''}", markup=False, highlight=False)

    return _timed(hear)


def _warned(listen: Listen, console: Console) -> Listen:
    """Return a listener that also advises how to shorten a slow training, once for each label, after its first step."""
    warned = set[str]()

    def hear(label: str, done: int, total: int, left: float) -> None:
        listen(label, done, total)
        unit = label.rpartition(" ")[2]
        if done == 1 and left > SLOW_SECONDS and unit in UNITS and label not in warned:
            warned.add(label)
            faster = f"to make it faster use fewer rows (task.limit=2000), fewer {unit} or a smaller network; --help shows the keys of your run"
            console.print(f"{label}: about {span(left)} left for this training alone; {faster}", markup=False, highlight=False, style="yellow", soft_wrap=True)

    return _timed(hear)


def span(seconds: float) -> str:
    """Return a duration as text, such as 50 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_record(console: Console, record: Record, path: Path) -> None:
    """Print one record as a table of undefended and defended figures, and its path."""
    title = f"{_name(record, 'attack')} against {_name(record, 'defense')} on {_name(record, 'task')}, seed {record.spec['seed']}"
    if record.status != "done":
        console.print(f"{title}: {record.status}, {record.reason}", markup=False, highlight=False, soft_wrap=True)
        for line in _kept_lines(record):
            console.print(line, markup=False, highlight=False)
    else:
        console.print(_table(title, record))
        for line in (*_trial_lines(record), *_filter_lines(record.metrics), *_certificate_lines(record)):
            console.print(line, markup=False, highlight=False)
    console.print(f"record: {path}", markup=False, highlight=False, soft_wrap=True)


def _table(title: str, record: Record) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for column in ("", "clean training", "undefended", "defended"):
        table.add_column(column, justify="right" if column else "left")
    for label, name in ROWS:
        figures = [percent(part.get(name)) for part in (record.baseline, record.undefended, record.metrics)]
        if any(figures):
            table.add_row(label, *figures)
    for name in counted([record], "undefended"):
        told = percent if is_share(name) else plain
        table.add_row(escape(name.replace("_", " ")), *(told(goal(record, part).get(name)) for part in PARTS))
    return table


def _trial_lines(record: Record) -> Iterator[str]:
    if ends := over_targets(record, record.undefended):
        yield f"undefended ASR over {record.counts['trials']} targets: {percent(ends[0])} to {percent(ends[1])} (Clopper-Pearson, 95 %)"
    undefended, defended = goal(record, "undefended"), goal(record, "metrics")
    if "c_acc_lost" in undefended:
        yield f"C-Acc lost: undefended {percent(undefended['c_acc_lost'])}, defended {percent(defended.get('c_acc_lost'))}"
    if "epsilon" in record.facts:
        yield f"privacy: epsilon {record.facts['epsilon']:.3f} at delta {record.facts['delta']}, {relation(record, seed=True)}"
    if "epsilon_lower" in undefended:
        least = [
            f"{name} {figures['epsilon_lower']:.3f}" for name, figures in (("undefended", undefended), ("defended", defended)) if "epsilon_lower" in figures
        ]
        yield f"canaries show an epsilon of at least: {', '.join(least)}"
    for place, assumed in record.assumed.items():
        if isinstance(assumed, Mapping):
            yield f"assumed: {place}={assumed.get('value')}, {assumed.get('source')}"
    if clients := malicious(record):
        yield f"clients: {clients}"
    if "reachable" in record.counts:
        yield _reach_line(record.counts)
    if "listed" in record.counts:
        poisoned, signed = record.counts["poisoned"], record.counts["poisoned_listed"]
        known = "; the poison was there before the rows were signed, so the list cannot find it" if poisoned and signed == poisoned else ""
        yield f"signed list: it names {record.counts['listed']} of the rows, {signed} of {poisoned} poisoned rows among them{known}"
    yield from _kept_lines(record)


def _reach_line(counts: Mapping[str, int]) -> str:
    line = f"within the attacker's reach: {counts['reachable']} of {counts['train']} rows"
    if "cents" in counts:
        line += f", on {counts['domains']} domains bought for {counts['cents'] / 100:.2f} dollars"
    if "attempted" in counts:
        line += f", of {counts['attempted']} pages that were edited"
    return f"{line}; poisoned: {counts['poisoned']}"


def _kept_lines(record: Record) -> Iterator[str]:
    counts = record.counts
    if "benign_kept" in counts:
        poisoned = f"{counts['poisoned_kept']} of {counts['poisoned']} poisoned rows"
        yield f"kept: {counts['benign_kept']} of {counts['benign']} benign rows, {poisoned}"


def _filter_lines(metrics: Mapping[str, object]) -> Iterator[str]:
    if "removed" in metrics:
        figures = [f"filter removed {metrics['removed']} rows"]
        figures += [f"{name} {percent(metrics[key])}" for name, key in (("TPR", "tpr"), ("FPR", "fpr")) if key in metrics]
        figures += [f"cover rows removed {percent(metrics['cover_removed'])}"] if "cover_removed" in metrics else []
        figures += [f"AUROC within class {metrics['auroc_in_class']:.3f}"] if "auroc_in_class" in metrics else []
        yield ", ".join(figures)
    if isinstance(screened := metrics.get("screen"), Mapping):
        yield "screen: " + ", ".join(f"{name} {value:.3f}" for name, value in screened.items())
    if isinstance(mended := metrics.get("repair"), Mapping):
        yield "repair: " + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in mended.items())


def _certificate_lines(record: Record) -> Iterator[str]:
    metrics, unit = record.metrics, radii(record, seed=True)
    if isinstance(certified := metrics.get("certified"), list | tuple):
        shares = [f"{percent(share)} at {radius}" for radius, share in list(enumerate(certified))[:: max(1, len(certified) // 4)]]
        yield f"certified against {unit}: {', '.join(shares)}; median radius {metrics.get('median_radius', 'none')}"
    if isinstance(never := metrics.get("never"), Mapping):
        yield f"median radius against a named wrong answer, by class: {', '.join(f'{radius} ({kind})' for kind, radius in never.items())}"
    if "member_c_acc" in metrics:
        yield f"one member alone classifies {percent(metrics['member_c_acc'])} of the test rows correctly"
    if isinstance(together := metrics.get("collective"), Mapping):
        shares = [f"{percent(share)} at {changes}" for changes, share in sorted(together.items(), key=lambda item: int(item[0]))]
        yield f"least accuracy under one attack, by number of {unit}: {', '.join(shares)}"


def apart(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return what of the words of each cell not all cells have, such as "size=3" for attack.data.size=3; without the keys that have a column."""
    shared = set.intersection(*map(set, cells)) if cells else set[str]()
    own = [[word.partition("=") for word in words if word not in shared] for words in cells]
    return [[f"{key.rpartition('.')[2]}={value}" for key, _, value in words if key not in SHOWN] for words in own]


def show_sweep(console: Console, cells: Sequence[tuple[Record, Path]], words: Sequence[Sequence[str]]) -> None:
    """Print a few lines per cell, narrow enough for 80 columns.

    Args:
        console: prints the table.
        cells: records and their paths.
        words: the words of each cell; those that tell it from others are shown below its attack.
    """
    table = Table(title="sweep: C-Acc / ASR, in %", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("attack", "defense", "rate", "seed", "undefended", "defended", "record"):
        folded = column in ("attack", "defense")
        table.add_column(column, no_wrap=not folded, overflow="fold", max_width=20 if folded else None)
    for (record, path), own in zip(cells, apart(words), strict=True):
        figures = [_pair(record.undefended), _pair(record.metrics)] if record.status == "done" else ["", record.status]
        table.add_row("\n".join([_name(record, "attack"), *own]), _name(record, "defense"), _rate(record), str(record.spec["seed"]), *figures, path.stem[:12])
    console.print(table)


def _pair(figures: Mapping[str, object]) -> str:
    values = [figures.get("c_acc"), figures.get("asr")]
    return " / ".join(f"{100 * value:.1f}" if isinstance(value, int | float) else "-" for value in values)


def _rate(record: Record) -> str:
    threat = record.spec["threat"]
    budget = threat.get("budget") if isinstance(threat, Mapping) else None
    if not isinstance(budget, Mapping):
        return ""
    return f"{'at most ' if budget.get('at_most') else ''}{budget.get('rate')}" if budget.get("count") is None else f"{budget['count']} rows"


def _name(record: Record, part: str) -> str:
    value = record.spec[part]
    return str(value["name"]) if isinstance(value, Mapping) else str(value)


def plain(figure: object) -> str:
    """Return a figure with three digits; empty for one that does not apply."""
    return f"{figure:.3g}" if isinstance(figure, int | float) else ""


def percent(fraction: object) -> str:
    """Return a fraction as a percentage with one decimal; empty for a figure that does not apply."""
    return f"{100 * fraction:.1f} %" if isinstance(fraction, int | float) else ""
