"""`show RECORD [PNG]`: draw or print poisoned rows beside their originals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from poisonbench.commands.usage import TRUST, Usage
from poisonbench.config.rerun import setting_from, split
from poisonbench.core.errors import ConfigError
from poisonbench.core.files import write_atomically
from poisonbench.report.figures import plain
from poisonbench.storage.record import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from poisonbench.core.attack import Poisoned
    from poisonbench.core.data import Dataset, Task
    from poisonbench.core.form import Piece

SHOWN = 8
WIDE = 18  # letters of a line over a picture

USAGE = Usage(
    call="show RECORD [PNG]",
    does="Show poisoned rows of a record beside their originals, and what was changed: pictures are drawn, other rows are printed.",
    options={"RECORD": "path of a record", "PNG": "path of the picture; beside the record by default", **TRUST},
)


def main(words: Sequence[str]) -> int:
    """Draw the poisoned rows of a record, or print them; a picture is written beside the record by default.

    Raises:
        ConfigError: wrong words, a path for rows that are not pictures, or a record without poisoned rows.
    """
    allowed, words = split(words)
    if not 1 <= len(words) <= 2:
        raise ConfigError("show RECORD [PNG] [trust=PREFIX.]: give the path of one record, and optionally the path of the picture")
    from poisonbench.runner.experiment import assemble
    from poisonbench.runner.stages import Line

    source = Path(words[0])
    path = Path(words[1]) if len(words) == 2 else source.with_suffix(".png")
    record = read(source)
    setting = setting_from(record, allowed)
    experiment = assemble(setting.tree, setting.store)
    poisoned = Line(experiment=experiment, store=setting.store).struck()
    title = f"{record.spec['attack']['name']} on {experiment.task.name}"  # type: ignore[index]
    if not poisoned.mask.any():
        raise ConfigError("this record has no poisoned rows to show; choose one with an attack on rows")
    if pictured(poisoned.data) is None:
        if len(words) == 2:
            raise ConfigError(f"the rows of {experiment.task.name} are no pictures and are printed; leave {words[1]} out")
        for line in printed(experiment.task, poisoned, title):
            Console().print(line, highlight=False, soft_wrap=True)
        return 0
    write_atomically(path, lambda temporary: draw(experiment.task, poisoned, title, temporary))
    Console().print(f"picture: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def printed(task: Task, poisoned: Poisoned, title: str) -> Iterator[Text]:
    """Yield lines on up to eight poisoned rows: what was added is marked {+so+}, what was removed [-so-], as wdiff writes it."""
    pairs, names = compared(task, poisoned), _names(task)
    yield Text(f"{title}: {len(pairs)} of {int(poisoned.mask.sum())} poisoned rows")
    for before, after in pairs:
        label, origin = names[int(after.labels[0])], None if before is None else before.inputs[0]
        kept = before is not None and bool(before.labels[0] == after.labels[0])
        was = "added" if before is None or after.ids[0] < 0 else "label kept" if kept else f"was {names[int(before.labels[0])]}"
        yield Text(f"[{label}, {was}] ", style="bold") + _marked(task.train.form.pieces(after.inputs[0], origin))
        for name in said(after):
            form, old = after.schema[name].form, None if before is None else before.extra[name][0]
            yield Text(f"    {name}: ", style="bold") + _marked(form.pieces(after.extra[name][0], old))


def pictured(rows: Dataset) -> str | None:
    """Return the name of the column that the model sees as a picture; None if there is none."""
    seen = (name for name, column in rows.schema.items() if column.role == "seen" and column.form.picture(rows.columns[name][0]) is not None)
    return next(seen, None)


def said(rows: Dataset) -> tuple[str, ...]:
    """Return the names of the further columns with texts of a row, such as its caption or its response; empty ones are left out."""
    return tuple(name for name, column in rows.schema.items() if name in rows.extra and column.role == "said" and column.form.text(rows.extra[name][0]))


def _marked(pieces: Sequence[Piece]) -> Text:
    """Return the pieces of a row with marks and colours."""
    how = {"kept": ("{}", ""), "added": ("{{+{}+}}", "green"), "removed": ("[-{}-]", "red")}
    return Text(" ").join(Text(how[piece.change][0].format(plain(piece.text)), style=how[piece.change][1]) for piece in pieces)


def compared(task: Task, poisoned: Poisoned) -> list[tuple[Dataset | None, Dataset]]:
    """Return up to eight poisoned rows, each after the clean row that it was made from; None for an added row without an origin."""
    rows = poisoned.mask.nonzero()[:, 0][:SHOWN]
    return [(_original(task, poisoned, int(row)), poisoned.data.take(row[None])) for row in rows]


def _names(task: Task) -> tuple[str, ...]:
    return task.class_names or tuple(map(str, range(task.train.num_classes)))


def draw(task: Task, poisoned: Poisoned, title: str, path: Path) -> None:
    """Draw up to eight poisoned rows: the original, the poison, and their difference, which is brightened where it is faint.

    A row that the attacker added has no original, unless the attack names the row that it was made from.
    """
    from matplotlib.figure import Figure

    pairs, names, name = compared(task, poisoned), _names(task), pictured(poisoned.data)
    assert name is not None, "the caller has looked"
    shown = [(None if before is None else before.columns[name][0], after.columns[name][0]) for before, after in pairs]
    differences = [None if old is None else (new.int() - old.int()).abs() for old, new in shown]
    largest = max((int(each.max()) for each in differences if each is not None), default=0)
    scale = 255 // largest if largest else 1
    figure = Figure(figsize=(1.3 * len(pairs), 4.4), layout="constrained")
    figure.suptitle(f"{title}: original, poisoned, difference" + (f" x {scale}" if scale > 1 else ""), fontsize=10)
    grid = figure.subplots(3, len(pairs), squeeze=False)
    for column, (before, after) in enumerate(pairs):
        difference = differences[column]
        _paint(grid[0, column], shown[column][0], "" if before is None else _titled(before, names))
        _paint(grid[1, column], shown[column][1], _titled(after, names))
        _paint(grid[2, column], None if difference is None else (difference * scale).byte(), "")
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _titled(row: Dataset, names: tuple[str, ...]) -> str:
    """Return the label of one row, what is said with it, and its inputs if these are no picture, in lines."""
    texts = [row.schema[name].form.text(row.extra[name][0]) for name in said(row)]
    texts += [] if pictured(row) == "inputs" else [row.form.text(row.inputs[0])]
    return "\n".join([names[int(row.labels[0])], *(line for text in texts for line in textwrap.wrap(text, WIDE))])


def _original(task: Task, poisoned: Poisoned, row: int) -> Dataset | None:
    """Return the clean row that a poisoned one was made from, as one row; None for an added row without an origin."""
    clean = len(task.train)
    if row >= clean and poisoned.origins is None:
        return None
    import torch

    origin = row if row < clean or poisoned.origins is None else int(poisoned.origins[row - clean])
    return task.train.take(torch.tensor([origin]))


def _paint(axis: Axes, picture: Tensor | None, title: str) -> None:
    """Put a (C, H, W) uint8 picture and its title into a field of the grid; the field stays empty without one."""
    axis.set_title(title, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color("0.6")  # without a border a white patch would run into the white page
    if picture is None:
        axis.set_axis_off()
    else:
        axis.imshow(picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
