"""The result of an audit: rows sorted by suspicion, agreement of filters, tables, and a page.

Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.core.files import write_atomically, write_text
from poisonbench.report.exports import harmless
from poisonbench.report.figures import plain
from poisonbench.report.joint import CleanRows, clean_rows, joined, task_of
from poisonbench.report.tables import ABSENT
from poisonbench.report.vetting_page import page
from poisonbench.stats import over_seeds

if TYPE_CHECKING:
    from torch import Tensor

    from poisonbench.core.data import Task
    from poisonbench.core.defense import Finds, Verdict
    from poisonbench.storage.record import Record

NAMED = 10  # classes or rows that a sentence names at most
FEW, MOST = 0.05, 0.5  # shares of rows that are certainly of some kind: up to the first they come first, above the second they are not named
ODD = re.compile(r"[^\w.-]+")  # characters that are replaced in the name of a folder


@dataclass(frozen=True, eq=False, kw_only=True)
class Vetted:
    """The verdicts of filters on a training set.

    Args:
        task: the rows.
        verdicts: of each filter, by its name.
        statements: of each filter, what it removes from clean rows.
        held: the filters that had to keep the rows of small classes; see `poisonbench.core.classwise`.
        unfit: the filters that could not judge these rows, each with the reason.
        short: the filters that used a model of a few epochs.
        asked: digest of the rows, their names, and the settings of all filters.
        finds: what each filter looks for, if it states it.
        clean: what these filters find in clean rows.
        limit: the largest share of clean rows that may have as much evidence as a row that is named; None: a row is named if a filter names it.
    """

    task: Task
    verdicts: Mapping[str, Verdict]
    statements: Mapping[str, str]
    held: Sequence[str] = ()
    unfit: Mapping[str, str] = field(default_factory=dict)
    short: Sequence[str] = ()
    asked: str = ""
    finds: Mapping[str, Finds] = field(default_factory=dict)
    clean: CleanRows = field(default_factory=clean_rows)
    limit: float | None = None

    @property
    def folder(self) -> str:
        """Name of the folder for the files of this audit; every audit has its own."""
        return f"{ODD.sub('_', self.task.name)[:40]}-{self.asked[:12]}"

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or their numbers, without control characters."""
        return tuple(plain(name) for name in self.task.class_names or map(str, range(self.task.train.num_classes)))

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each class."""
        return [int(size) for size in self.task.train.labels.bincount(minlength=self.task.train.num_classes)]

    @cached_property
    def votes(self) -> Tensor:
        """(N,) int64, how many filters would remove each row."""
        import torch

        return torch.stack([~verdict.keep for verdict in self.verdicts.values()]).sum(0)

    @cached_property
    def by_kind(self) -> Mapping[str, Tensor]:
        """(N,) float64 for each kind of row, the share of clean rows with at least as much evidence."""
        return self.clean.by_kind(self.shares, self.finds)

    @cached_property
    def share(self) -> Tensor:
        """(N,) float64, the smallest of these shares times their number, at most 1; 1 for every row if no filter was measured on clean rows."""
        import torch

        return joined(torch.stack([*self.by_kind.values()])) if self.by_kind else torch.ones(len(self.task.train), dtype=torch.float64)

    @cached_property
    def exact(self) -> Mapping[str, Tensor]:
        """(N,) bool for each filter whose finding is certain (`Finds.exact`): the rows that it removes; none of them if it removes more than half."""
        rows = {name: ~verdict.keep for name, verdict in self.verdicts.items() if name in self.finds and self.finds[name].exact}
        return {name: removed & (removed.double().mean() <= MOST) for name, removed in rows.items()}

    @cached_property
    def certain(self) -> Tensor:
        """(N,) bool, the rows about which one of these findings is made."""
        import torch

        return torch.stack([*self.exact.values(), torch.zeros(len(self.task.train), dtype=torch.bool)]).any(0)

    @cached_property
    def first(self) -> Tensor:
        """(N,) bool, the rows that come before all others: those of `certain`, if they are few."""
        return self.certain & (self.certain.double().mean() <= FEW)

    @cached_property
    def kinds(self) -> list[str]:
        """The kind of each row: that of a certain finding, or else the one with the smallest share; empty without one below 1."""
        import torch

        found = [""] * len(self.task.train)
        if self.by_kind:
            names, shares = [*self.by_kind], torch.stack([*self.by_kind.values()])
            best = shares.min(0)
            found = [names[place] if value < 1 else "" for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        for name, rows in self.exact.items():
            for row in rows.nonzero()[:, 0].tolist():
                found[row] = self.finds[name].kind
        return found

    @cached_property
    def named(self) -> Tensor:
        """(N,) bool, the rows to look at: those that a filter names if `limit` is None, else those of a certain finding or of a share up to the limit."""
        return self.votes > 0 if self.limit is None else (self.share <= self.limit) | self.certain

    @cached_property
    def order(self) -> list[int]:
        """Positions of all rows, most suspicious first: `first`, then by their share, then by votes, then by the mean of their ranks within their class."""
        import torch

        places = torch.stack([ranked_in_class(verdict.suspicion, self.task.train.labels) for verdict in self.verdicts.values()]).mean(0)
        order = (self.votes.double() + places).argsort(descending=True, stable=True)
        order = order[self.share[order].argsort(stable=True)]
        return [int(row) for row in order[(~self.first[order]).byte().argsort(stable=True)]]

    def reason(self, row: int) -> str:
        """Return why a row is suspicious: what the filter of its kind with the largest strength says about it; a certain finding before all others."""
        among = [name for name in self.verdicts if name in self.finds and self.finds[name].kind == self.kinds[row]]
        if not among:
            return ""
        sure = [name for name in among if name in self.exact and bool(self.exact[name][row])]
        name = min(sure or among, key=lambda name: float(self.shares[name][row]) if name in self.shares else 2.0)
        facts = {column: int(values[row]) for column, values in self.verdicts[name].evidence.items()}
        told = self.finds[name].because.format(
            label=self.classes[int(self.task.train.labels[row])],
            guess=self.classes[facts["guess"]] if "guess" in facts else "",
            twin=self.called(facts.get("twin", -1)),
            **(self._own_caption(row) | self._said(row)),
        )
        return f"{told}{self._contradiction(row, facts.get('twin', -1))}"

    def _contradiction(self, row: int, twin: int) -> str:
        """Return in what a copy says something else than the row at `twin`, as the end of a sentence: its label, or another column such as a caption."""
        train, test = self.task.train, self.task.test
        if twin < 0:
            return ""
        other, place = (train, twin) if twin < len(train) else (test, twin - len(train))
        if (label := int(other.labels[place])) != int(train.labels[row]):
            return f", which is labelled {self.classes[label]}"
        here, there = self._said(row), self._said(twin) if other is train else {}  # test pictures have no captions
        return "".join(f', which has another {name}, "{text}"' for name, text in there.items() if text != here[name])

    def _own_caption(self, row: int) -> dict[str, str]:
        """Return the caption of a training row whose inputs are its caption, because its picture is in another column; empty for other rows."""
        from poisonbench.forms.prompts import CAPTION
        from poisonbench.forms.shapes import PICTURE

        train = self.task.train
        return {CAPTION: plain(train.form.text(train.inputs[row]))} if PICTURE in train.extra else {}

    def _said(self, row: int) -> dict[str, str]:
        """Return what a training row says besides its label, as texts without control characters, such as its caption."""
        train = self.task.train
        return {name: plain(train.schema[name].form.text(train.extra[name][row])) for name in train.extra if train.schema[name].role == "said"}

    @cached_property
    def shares(self) -> Mapping[str, Tensor]:
        """(N,) float64 for each filter, the share of clean rows that are at least as suspicious to it; 1 for rows whose class it cannot judge."""
        from poisonbench.core.classwise import judgeable

        found = self.clean.shares(self.verdicts, self.finds, self.task.train.labels)
        judged = judgeable(self.task.train)
        return {name: share.where(judged, 1.0) if name in self.held else share for name, share in found.items()}

    def called(self, place: int) -> str:
        """Return the name of the row at a position; positions behind the training rows are test rows."""
        train, test = self.task.train, self.task.test
        if place < 0:
            return "another row"
        if place >= len(train):
            ident, names = int(test.ids[place - len(train)]), self.task.test_names
            return f"test row {plain(names[ident]) if names else ident}"
        ident, names = int(train.ids[place]), self.task.row_names
        return plain(names[ident]) if names else f"row {ident}"


def ranked_in_class(suspicion_N: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) in [0, 1): for each row the rank of its suspicion within its class, divided by the size of the class; the mean rank of equal rows."""
    import torch

    places = torch.zeros(len(labels_N), dtype=torch.float64)
    for label in labels_N.unique().tolist():
        rows = (labels_N == label).nonzero()[:, 0]
        _, group, sizes = suspicion_N[rows].unique(return_inverse=True, return_counts=True)
        places[rows] = (sizes.cumsum(0) - (sizes + 1) / 2).double()[group] / len(rows)
    return places


def statement(name: str, records: Sequence[Record]) -> str:
    """Return the sentence on what a filter removes from clean rows, from the published records without an attack."""
    if not records:
        return f"what it removes from clean rows is unknown here; {ABSENT}"
    clean: dict[str, list[float]] = {}
    for record in records:
        defense, attack, task = (part["name"] if isinstance(part := record.spec.get(kind), Mapping) else "" for kind in ("defense", "attack", "task"))
        fpr = record.metrics.get("fpr")
        if record.status == "done" and (defense, attack) == (name, "none") and isinstance(fpr, int | float):
            clean.setdefault(str(task), []).append(100 * fpr)
    if not clean:
        return "no published record shows what it removes from clean rows"
    shares = [f"{over_seeds(values).mean:.1f} % of the rows of {task} ({len(values)} records)" for task, values in sorted(clean.items())]
    return f"without any attack it removed {', '.join(shares)}; so a row that it names need not be poisoned"


def agreement(vetted: Vetted) -> list[str]:
    """Return a sentence for each pair of filters: how many of the rows that at least one names both of them name."""
    named = {name: ~verdict.keep for name, verdict in vetted.verdicts.items()}
    pairs = [(one, other) for place, one in enumerate(named) for other in list(named)[place + 1 :]]
    sentences = []
    for one, other in pairs:
        both, either = int((named[one] & named[other]).sum()), int((named[one] | named[other]).sum())
        sentences.append(f"{one} and {other} both name {both} of the {either} rows that at least one of them names")
    return sentences


def too_small(vetted: Vetted, named: int = NAMED) -> list[str]:
    """Return a sentence on the classes that keep all rows because they are too small to judge, with at most `named` of their names; or none."""
    from poisonbench.core.classwise import LEAST, REASON

    small = [f"{name} ({_rows(size)})" for name, size in zip(vetted.classes, vetted.sizes, strict=True) if 0 < size < LEAST]
    if not vetted.held or not small:
        return []
    more = f" and {len(small) - named} more, too_small in suspects.csv" if len(small) > named else ""
    of = f"{len(small)} of {len([size for size in vetted.sizes if size])} classes are too small to judge"
    return [f"{of} by {' and '.join(vetted.held)}, which keep all of their rows: {', '.join(small[:named])}{more}; the reason: {REASON}"]


def wholly_named(vetted: Vetted) -> list[str]:
    """Return a sentence for each filter that names all rows of a class."""
    labels, sentences = vetted.task.train.labels, []
    for name, verdict in vetted.verdicts.items():
        left = labels[verdict.keep].bincount(minlength=vetted.task.train.num_classes).tolist()
        whole = [f"{kind} ({_rows(size)})" for kind, size, kept in zip(vetted.classes, vetted.sizes, left, strict=True) if size and not kept]
        if whole:
            more = f" and {len(whole) - NAMED} more" if len(whole) > NAMED else ""
            advice = "if this filter uses threat.budget.rate, a lower rate makes it name fewer rows"
            sentences.append(f"{name} names every row of {', '.join(whole[:NAMED])}{more}; {advice}")
    return sentences


def with_leaks(verdict: Verdict, behind: Verdict, test: int) -> Verdict:
    """Return the verdict of a filter that looks for copies, with the training rows that copy a test row.

    Args:
        verdict: on the N training rows.
        behind: on the test rows, then the training rows.
        test: number of test rows.

    Returns:
        Training rows whose twin is a test row are dropped; their twin has the position N + that of the test row.
    """
    import torch

    from poisonbench.core.defense import Verdict

    count, twin = len(verdict.keep), behind.evidence["twin"][test:]
    leaks = (twin >= 0) & (twin < test)
    return Verdict(
        keep=verdict.keep & ~leaks,
        suspicion=torch.where(leaks, torch.maximum(verdict.suspicion, behind.suspicion[test:]), verdict.suspicion),
        evidence={**verdict.evidence, "twin": torch.where(leaks, count + twin, verdict.evidence["twin"])},
    )


def leaked(vetted: Vetted) -> list[str]:
    """Return a sentence on the training rows that copy a test row, with at most `NAMED` of their names; or none."""
    count = len(vetted.task.train)
    rows = {
        row: None for verdict in vetted.verdicts.values() if "twin" in verdict.evidence for row in (verdict.evidence["twin"] >= count).nonzero()[:, 0].tolist()
    }
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    are = "training row copies a test row" if len(rows) == 1 else "training rows copy test rows"
    return [f"{len(rows)} {are}: {', '.join(vetted.called(row) for row in [*rows][:NAMED])}{more}"] if rows else []


def swapped(vetted: Vetted, least: int = 3) -> list[str]:
    """Return a sentence for each pair of classes between which many labels look wrong: a targeted error, where random ones go to all classes.

    Counted are the rows that are named as label errors. A pair stands out if it has at least `least` of them and more than three times its even share.
    """
    import torch

    names = [
        name for name in vetted.verdicts if name in vetted.finds and vetted.finds[name].kind == "label error" and "guess" in vetted.verdicts[name].evidence
    ]
    rows = torch.tensor([row for row in vetted.named.nonzero()[:, 0].tolist() if vetted.kinds[row] == "label error"], dtype=torch.int64)
    if not names or not len(rows):
        return []
    labels, guess = vetted.task.train.labels[rows], vetted.verdicts[names[0]].evidence["guess"][rows]
    kinds = vetted.task.train.num_classes
    pairs = (labels * kinds + guess).bincount(minlength=kinds * kinds)
    even = len(rows) / max(1, kinds * (kinds - 1))
    stands = [pair for pair in pairs.argsort(descending=True, stable=True).tolist() if pairs[pair] >= max(least, 3 * even + 1e-9)]
    classes, of = vetted.classes, f"of the {len(rows)} rows named as label errors are labelled"
    found = [f"{int(pairs[pair])} {of} {classes[pair // kinds]} and look like {classes[pair % kinds]}" for pair in stands]
    return found[:NAMED] if kinds > 2 else []


def calibrated(vetted: Vetted) -> list[str]:
    """Return a sentence on what the shares of clean rows were measured on."""
    runs = {run: sketch.rows for sketches in vetted.clean.filters.values() for run, sketch in sketches.items()}
    tasks = {task_of(run): rows for run, rows in runs.items()}
    left = [name for name in vetted.verdicts if name not in vetted.shares]
    measured = f"the shares of clean rows were measured on {sum(tasks.values())} rows of {len(tasks)} clean tasks: {', '.join(sorted(tasks))}"
    without = f"not measured, so without influence on the order: {', '.join(left)}"
    return [*([measured] if vetted.shares else []), *([without] if left else [])]


def certainly(vetted: Vetted) -> list[str]:
    """Return a sentence for each filter whose finding is certain: which rows it found, and the share of the rows of clean tasks that are like them."""
    count, sentences = len(vetted.task.train), []
    for name, rows in vetted.exact.items():
        removed = (~vetted.verdicts[name].keep).nonzero()[:, 0].tolist()
        clean = [float(sketch.flagged) for sketch in vetted.clean.filters.get(name, {}).values()]
        without = f"; without an attack this holds for {100 * sum(clean) / len(clean):.2g} % of the rows of the clean tasks" if clean else ""
        told = f"{vetted.finds[name].because} in {len(removed)} of {_rows(count)} ({name})"
        if removed and not rows.any():
            sentences.append(f"{told}: more than half, so these rows are not named for it{without}")
        elif removed:
            more = f" and {len(removed) - NAMED} more" if len(removed) > NAMED else ""
            sentences.append(f"{told}: {', '.join(vetted.called(row) for row in removed[:NAMED])}{more}{without}")
    return sentences


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def rows_of(vetted: Vetted) -> list[dict[str, object]]:
    """Return one flat mapping per row, most suspicious first; a row without a name is named by its number."""
    from poisonbench.core.classwise import LEAST

    train, names = vetted.task.train, vetted.task.row_names
    lines = []
    for row in vetted.order:
        ident, label = int(train.ids[row]), int(train.labels[row])
        line: dict[str, object] = {"row": ident, "name": plain(names[ident]) if names else str(ident), "label": vetted.classes[label]}
        line |= {"class_rows": vetted.sizes[label], "too_small": bool(vetted.held) and vetted.sizes[label] < LEAST, "filters": int(vetted.votes[row])}
        line |= {
            "named": bool(vetted.named[row]),
            "kind": vetted.kinds[row],
            "clean_share": float(f"{float(vetted.share[row]):.4g}"),
            "reason": vetted.reason(row),
        }
        for name, verdict in vetted.verdicts.items():
            line |= {f"{name}_removes": not bool(verdict.keep[row]), f"{name}_suspicion": round(float(verdict.suspicion[row]), 6)}
        lines.append(line)
    return lines


def write(vetted: Vetted, folder: Path) -> list[Path]:
    """Write all rows as CSV and Parquet, and a page of the first ones; return the paths of the files."""
    import pyarrow
    import pyarrow.parquet

    rows, stream = rows_of(vetted), io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: harmless(value) for name, value in row.items()} for row in rows)
    write_text(folder / "suspects.csv", stream.getvalue())
    table = pyarrow.Table.from_pylist(rows)
    write_atomically(folder / "suspects.parquet", lambda path: pyarrow.parquet.write_table(table, path))
    sentences = [*certainly(vetted), *calibrated(vetted), *swapped(vetted), *leaked(vetted), *too_small(vetted, len(vetted.classes)), *wholly_named(vetted)]
    told = [] if vetted.limit is not None else [*agreement(vetted), *(f"{name}: {said}" for name, said in vetted.statements.items())]
    write_text(folder / "index.html", page(vetted, rows, [*sentences, *told]))
    return [folder / "suspects.csv", folder / "suspects.parquet", folder / "index.html"]
