"""Early stopping: keep the model of the epoch that is best on the trusted rows.

Shape letters: T trusted rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.learner import Moment, PlainStep, Plan, State

WATCHED = "_early_stop"
SCORED = 500  # rows in one forward pass


class Watch:
    """The best model so far.

    Args:
        trusted: the T rows that decide.
    """

    def __init__(self, trusted: Dataset) -> None:
        self.trusted = trusted
        self.right = -1
        self.epochs = 0
        self.state: State = {}

    def look(self, module: nn.Module, epochs: int) -> None:
        """Keep the model if it answers more trusted rows rightly than every model before."""
        if (right := hits(module, self.trusted)) > self.right:
            self.right, self.epochs = right, epochs
            self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class EarlyStopStep(PlainStep):
    """Return the model after the epoch with the best accuracy on the trusted rows.

    Source: early stopping as a defense against wrong labels, which a network learns later than right ones: Li, Soltanolkotabi, Oymak, "Gradient
    Descent with Early Stopping is Provably Robust to Label Noise for Overparameterized Neural Networks", AISTATS 2020. The choice by clean rows is
    common practice.

    The training runs to its end, because its learning rates are planned for all epochs. Ties go to the earlier epoch. The record has the chosen epoch
    and its accuracy on the trusted rows; that accuracy is not an estimate for other rows, because it chose the epoch.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Prepare to watch the model."""
        setattr(module, WATCHED, Watch(trusted))

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Look at the model of the epoch before, and keep the plan."""
        if moment.epoch:
            watch: Watch = getattr(moment.module, WATCHED)
            watch.look(moment.module, moment.epoch)
        return batches

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Look at the last model, set the best one, and return its epoch."""
        watch: Watch = getattr(module, WATCHED)
        watch.look(module, plan.epochs)
        with torch.no_grad():
            for name, value in module.state_dict().items():
                value.copy_(watch.state[name])
        delattr(module, WATCHED)
        return {"stopped_after": watch.epochs, "trusted_accuracy": watch.right / len(watch.trusted)}


def hits(module: nn.Module, rows: Dataset) -> int:
    """Return how many rows the model, in evaluation mode, answers rightly; it is in training mode before and after."""
    place = next(module.parameters()).device
    module.eval()
    with torch.no_grad():
        parts = zip(rows.inputs.split(SCORED), rows.labels.split(SCORED), strict=True)
        right = sum(int((module(rows.form.ready(inputs.to(place))).argmax(1).cpu() == labels.cpu()).sum()) for inputs, labels in parts)
    module.train()
    return right
