"""The page of an audit: the named rows by what looks wrong with them, beside ordinary rows, and the list of ids to drop."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from poisonbench.report.figures import plain

if TYPE_CHECKING:
    from torch import Tensor

    from poisonbench.core.form import Form
    from poisonbench.report.vetting import Vetted

SHOWN = 24  # rows of each kind
LONGEST = 600  # characters of a text on the page


class View(NamedTuple):
    """A row as a person sees it: a picture as a data URL, or a text."""

    picture: str = ""
    text: str = ""


def page(vetted: Vetted, rows: Sequence[Mapping[str, object]], sentences: Sequence[str]) -> str:
    """Return a page without external files and scripts.

    The most suspicious rows are grouped by kind, each with its reason, as a picture or a text beside two unsuspicious rows of its class; a copy also
    beside the row that it copies. A link saves the ids of the named rows, one in each line.

    Args:
        vetted: the audit.
        rows: one mapping for each row, in its order (`rows_of`).
        sentences: about the audit as a whole.
    """
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    groups = _groups(vetted)
    ordinary = _ordinary(vetted, {int(vetted.task.train.labels[row]) for rows in groups.values() for row in rows})
    places = {row: place for place, row in enumerate(vetted.order)}
    shown = {kind: [_shown(vetted, row, rows[places[row]], ordinary) for row in members] for kind, members in groups.items()}
    names = [str(rows[places[row]]["name"]) for row in vetted.order if bool(vetted.named[row])]
    listed = base64.b64encode("".join(f"{name}\n" for name in names).encode()).decode()
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True))
    return environment.get_template("audit.html.j2").render(
        task=vetted.task.name,
        count=len(vetted.task.train),
        named=len(names),
        listed=f"data:text/plain;charset=utf-8;base64,{listed}",
        groups=shown,
        sentences=sentences,
        filters=list(vetted.verdicts),
        most=SHOWN,
    )


def _groups(vetted: Vetted) -> dict[str, list[int]]:
    """Return the named rows of each kind, most suspicious first, at most `SHOWN` of each; without a named row the first of all."""
    named = [row for row in vetted.order if bool(vetted.named[row])] or vetted.order[:SHOWN]
    kinds = [vetted.kinds[row] or "other" for row in named]
    return {kind: [row for row, own in zip(named, kinds, strict=True) if own == kind][:SHOWN] for kind in dict.fromkeys(kinds)}


def _ordinary(vetted: Vetted, labels: set[int]) -> dict[int, list[View]]:
    """Return two unsuspicious rows of each class."""
    train = vetted.task.train
    found: dict[int, list[View]] = {label: [] for label in labels}
    for row in reversed(vetted.order):
        some = found.get(int(train.labels[row]))
        if some is not None and len(some) < 2:
            some.append(viewed(train.form, train.inputs[row]))
    return found


def _shown(vetted: Vetted, row: int, told: Mapping[str, object], ordinary: Mapping[int, Sequence[View]]) -> dict[str, object]:
    train, test = vetted.task.train, vetted.task.test
    twins = [int(verdict.evidence["twin"][row]) for verdict in vetted.verdicts.values() if "twin" in verdict.evidence and vetted.kinds[row] == "duplicate"]
    values = [train.inputs[twin] if twin < len(train) else test.inputs[twin - len(train)] for twin in twins if twin >= 0]
    beside = [viewed(train.form, value) for value in values] + list(ordinary[int(train.labels[row])])
    return {**told, "view": viewed(train.form, train.inputs[row]), "beside": beside[:2], "share": f"{100 * float(vetted.share[row]):.3g}"}


def viewed(form: Form, value: Tensor) -> View:
    """Return a value as a picture, or as a text of at most `LONGEST` characters."""
    picture = form.picture(value)
    if picture is not None:
        return View(picture=_png(picture))
    text = plain(form.text(value))
    return View(text=text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")


def _png(picture: Tensor) -> str:
    """Return a (C, H, W) uint8 picture as a data URL."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).contiguous().numpy()).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
