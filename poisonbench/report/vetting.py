"""What filters think of a training set: rows in order, agreement, tables, a page.

Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.core.files import write_atomically, write_text
from poisonbench.report.figures import plain
from poisonbench.report.leaderboard import harmless
from poisonbench.stats import over_seeds

if TYPE_CHECKING:
    from torch import Tensor

    from poisonbench.core.data import Task
    from poisonbench.core.defense import Verdict
    from poisonbench.record import Record

SHOWN = 24


@dataclass(frozen=True, eq=False, kw_only=True)
class Vetted:
    """What filters think of a training set.

    Args:
        task: the rows.
        verdicts: of each filter, by its name.
        statements: of each filter, what it removes where nobody attacked.
    """

    task: Task
    verdicts: Mapping[str, Verdict]
    statements: Mapping[str, str]

    @property
    def votes(self) -> Tensor:
        """(N,) int64, how many filters would remove each row."""
        import torch

        return torch.stack([~verdict.keep for verdict in self.verdicts.values()]).sum(0)

    @property
    def order(self) -> list[int]:
        """Positions of all rows, most suspicious first: by votes, then by the mean of their ranks within their class."""
        import torch

        places = torch.stack([ranked_in_class(verdict.suspicion, self.task.train.labels) for verdict in self.verdicts.values()]).mean(0)
        return [int(row) for row in (self.votes.double() + places).argsort(descending=True, stable=True)]


def ranked_in_class(suspicion_N: Tensor, labels_N: Tensor) -> Tensor:
    """Return (N,) in [0, 1): the share of its class that each row is at least as suspicious as, without itself."""
    import torch

    places = torch.zeros(len(labels_N), dtype=torch.float64)
    for label in labels_N.unique().tolist():
        rows = (labels_N == label).nonzero()[:, 0]
        places[rows[suspicion_N[rows].argsort(stable=True)]] = torch.arange(len(rows), dtype=torch.float64) / len(rows)
    return places


def statement(name: str, records: Sequence[Record]) -> str:
    """Return what a filter removes where nobody attacked, by the published records of clean tasks."""
    clean: dict[str, list[float]] = {}
    for record in records:
        defense, attack, task = (part["name"] if isinstance(part := record.spec.get(kind), Mapping) else "" for kind in ("defense", "attack", "task"))
        fpr = record.metrics.get("fpr")
        if record.status == "done" and (defense, attack) == (name, "none") and isinstance(fpr, int | float):
            clean.setdefault(str(task), []).append(100 * fpr)
    if not clean:
        return "no record says what it removes from clean rows"
    told = [f"{over_seeds(values).mean:.1f} % on {task} ({len(values)} records)" for task, values in sorted(clean.items())]
    return f"of clean rows, with nobody attacking, it removed {', '.join(told)}; so being named here proves nothing"


def agreement(vetted: Vetted) -> list[str]:
    """Return a sentence for each pair of filters: rows that both name, over rows that either names."""
    named = {name: ~verdict.keep for name, verdict in vetted.verdicts.items()}
    pairs = [(one, other) for place, one in enumerate(named) for other in list(named)[place + 1 :]]
    told = []
    for one, other in pairs:
        both, either = int((named[one] & named[other]).sum()), int((named[one] | named[other]).sum())
        told.append(f"{one} and {other} both name {both} of the {either} rows that either names")
    return told


def rows_of(vetted: Vetted) -> list[dict[str, object]]:
    """Return one flat mapping a row, most suspicious first."""
    train, task, votes = vetted.task.train, vetted.task, vetted.votes
    kinds = task.class_names or tuple(map(str, range(train.num_classes)))
    told = []
    for row in vetted.order:
        ident = int(train.ids[row])
        line: dict[str, object] = {"row": ident, "name": plain(task.row_names[ident]) if task.row_names else "", "label": plain(kinds[int(train.labels[row])])}
        line["filters"] = int(votes[row])
        for name, verdict in vetted.verdicts.items():
            line |= {f"{name}_removes": not bool(verdict.keep[row]), f"{name}_suspicion": round(float(verdict.suspicion[row]), 6)}
        told.append(line)
    return told


def write(vetted: Vetted, folder: Path) -> list[Path]:
    """Write all rows as CSV and Parquet, and the page if they are pictures; return the files."""
    import pyarrow
    import pyarrow.parquet

    rows, stream = rows_of(vetted), io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: harmless(value) for name, value in row.items()} for row in rows)
    write_text(folder / "suspects.csv", stream.getvalue())
    table = pyarrow.Table.from_pylist(rows)
    write_atomically(folder / "suspects.parquet", lambda path: pyarrow.parquet.write_table(table, path))
    written = [folder / "suspects.csv", folder / "suspects.parquet"]
    if vetted.task.train.inputs.ndim == 4:
        write_text(folder / "index.html", page(vetted))
        written.append(folder / "index.html")
    return written


def page(vetted: Vetted) -> str:
    """Return a page of the most suspicious pictures, each beside two ordinary ones of its class; it needs nothing but itself."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    train, rows = vetted.task.train, rows_of(vetted)[:SHOWN]
    kinds = vetted.task.class_names or tuple(map(str, range(train.num_classes)))
    place = {int(ident): position for position, ident in enumerate(train.ids.tolist())}
    ordinary: dict[str, list[str]] = {}
    for row in reversed(vetted.order):
        some = ordinary.setdefault(plain(kinds[int(train.labels[row])]), [])
        if len(some) < 2:
            some.append(_png(train.inputs[row]))
    shown = [told | {"picture": _png(train.inputs[place[int(str(told["row"]))]]), "ordinary": ordinary[str(told["label"])]} for told in rows]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True))
    return environment.get_template("audit.html.j2").render(
        task=vetted.task.name, count=len(train), rows=shown, statements=vetted.statements, agreement=agreement(vetted), filters=list(vetted.verdicts)
    )


def _png(picture: Tensor) -> str:
    """Return a (C, H, W) uint8 picture as a data address."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).contiguous().numpy()).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
