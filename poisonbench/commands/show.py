"""`show RECORD [PNG]`: draw poisoned rows beside their originals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from poisonbench.commands.usage import TRUST, Usage
from poisonbench.config.rerun import setting_from, split
from poisonbench.core.errors import ConfigError
from poisonbench.core.files import write_atomically
from poisonbench.storage.record import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from poisonbench.core.attack import Poisoned
    from poisonbench.core.data import Dataset, Task

SHOWN = 8

USAGE = Usage(
    call="show RECORD [PNG]",
    does="Draw poisoned rows of a record beside their originals, and what was changed.",
    options={"RECORD": "path of a record", "PNG": "path of the picture; beside the record by default", **TRUST},
)


def main(words: Sequence[str]) -> int:
    """Draw the poisoned rows of a record; the picture is written beside the record by default.

    Raises:
        ConfigError: wrong words, or a record without poisoned images.
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
    write_atomically(path, lambda temporary: draw(experiment.task, poisoned, title, temporary))
    Console().print(f"picture: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def draw(task: Task, poisoned: Poisoned, title: str, path: Path) -> None:
    """Draw up to eight poisoned rows: the original, the poison, and their difference, which is brightened where it is faint.

    A row that the attacker added has no original, unless the attack names the row that it was made from.

    Raises:
        ConfigError: inputs that are not images, or no poisoned row.
    """
    from matplotlib.figure import Figure

    rows = poisoned.mask.nonzero()[:, 0][:SHOWN]
    if len(rows) == 0 or task.train.inputs.ndim != 4:
        raise ConfigError("this record has no poisoned images to show; choose one with an attack on image rows")
    pairs = [(_original(task, poisoned, int(row)), poisoned.data.take(row[None])) for row in rows]
    names = task.class_names or tuple(map(str, range(task.train.num_classes)))
    differences = [None if before is None else (after.inputs[0].int() - before.inputs[0].int()).abs() for before, after in pairs]
    largest = max((int(each.max()) for each in differences if each is not None), default=0)
    scale = 255 // largest if largest else 1
    figure = Figure(figsize=(1.3 * len(rows), 4.4), layout="constrained")
    figure.suptitle(f"{title}: original, poisoned, difference" + (f" x {scale}" if scale > 1 else ""), fontsize=10)
    grid = figure.subplots(3, len(rows), squeeze=False)
    for column, (before, after) in enumerate(pairs):
        difference = differences[column]
        _paint(grid[0, column], None if before is None else before.inputs[0], "" if before is None else names[int(before.labels[0])])
        _paint(grid[1, column], after.inputs[0], names[int(after.labels[0])])
        _paint(grid[2, column], None if difference is None else (difference * scale).byte(), "")
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


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
