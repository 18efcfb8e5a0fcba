"""An experiment as the command line builds it, on made-up rows of any shape."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from poisonbench.api import own_task
from poisonbench.config.compose import tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.learner import Combine, Learner
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.store import Store


@dataclass(frozen=True, eq=False, kw_only=True)
class Setting:
    """The parts of a training.

    Args:
        learner: the recipe.
        data: the rows.
        combine: how contributions are combined: unchanged.
    """

    learner: Learner
    data: Dataset
    combine: Combine


def setting(*words: str, data: tuple[Tensor, Tensor]) -> Setting:
    """Build the recipe that `words` describe, for (N, C, H, W) uint8 or (N, D) float32 inputs and (N,) labels."""
    adopt_own_packages()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        task = own_task(train=data, test=(data[0][:10].flip(-1), data[1][:10]), trusted=0.0)
        words = (f"threads={torch.get_num_threads()}", *words)
        experiment = assemble(tree_of([*words]), store, task=task)
        return Setting(learner=experiment.learner, data=experiment.task.train, combine=Line(experiment=experiment, store=store).honest)


def made_up(rows: int, shape: tuple[int, ...], *, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Return uniform random pixels, brighter for larger labels so that there is something to learn, and labels."""
    generator = Key.root(100).torch()
    labels = torch.arange(rows) % classes
    inputs = torch.randint(0, 128, (rows, *shape), generator=generator, dtype=torch.uint8)
    return inputs + (labels * (128 // classes)).to(torch.uint8).view(-1, *[1] * len(shape)), labels


def empty_rows(shape: tuple[int, ...], classes: int) -> Dataset:
    """Return no rows of this shape, to build a network for."""
    return Dataset.of(torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64), num_classes=classes)
