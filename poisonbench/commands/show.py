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
    from torch import Tensor

    from poisonbench.core.attack import Poisoned
    from poisonbench.core.data import Task

SHOWN = 8

USAGE = Usage(
    call="show RECORD [PNG]",
    does="Draw poisoned rows of a record beside their originals.",
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
    """Draw up to eight poisoned rows: the original, the poison, and their difference.

    Raises:
        ConfigError: inputs that are not images, or no edited row.
    """
    from matplotlib.figure import Figure

    rows = poisoned.mask[: len(task.train)].nonzero()[:, 0][:SHOWN]
    if len(rows) == 0 or task.train.inputs.ndim != 4:
        raise ConfigError("this record has no poisoned images to show; choose one with an attack on image rows")
    before, after = task.train.take(rows), poisoned.data.take(rows)
    figure = Figure(figsize=(1.3 * len(rows), 4.4), layout="constrained")
    figure.suptitle(f"{title}: original, poisoned, difference", fontsize=10)
    grid = figure.subplots(3, len(rows), squeeze=False)
    names = task.class_names or tuple(map(str, range(task.train.num_classes)))
    for column in range(len(rows)):
        difference = (after.inputs[column].int() - before.inputs[column].int()).abs().byte()
        pictures = (before.inputs[column], after.inputs[column], difference)
        titles = (names[int(before.labels[column])], names[int(after.labels[column])], "")
        for axis, picture, label in zip(grid[:, column], pictures, titles, strict=True):
            axis.imshow(_canvas(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_title(label, fontsize=8)
            axis.set_axis_off()
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _canvas(picture: Tensor) -> object:
    """Return (H, W) or (H, W, 3) for matplotlib."""
    return picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).numpy()
