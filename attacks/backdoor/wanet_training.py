"""WaNet as in the paper: the attacker runs the training, in noise mode."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.backdoor.triggers import all_to, images
from attacks.backdoor.wanet import WaNet, jitter
from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import Backdoor
from poisonbench.core.learner import Batch, Moment, PlainStep
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class WaNetGoal:
    """Keep the rows unchanged and set the goal of WaNet's backdoor; the data slot of `attack=wanet_training`.

    Source: Nguyen and Tran, ICLR 2021.

    Args:
        like: the WaNet attack whose warp and target label are used.
    """

    VERSION: ClassVar[int] = 1
    like: WaNet

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the clean rows and the goal."""
        wish = all_to(self.like.target, known.rows.num_classes)
        images(tuple(known.rows.inputs.shape[1:]), "a warp")
        goal = Backdoor(trigger=self.like.trigger, wish=wish)
        return Poisoned(data=known.rows, mask=known.mask(torch.arange(0)), goal=goal)


@dataclass(frozen=True, kw_only=True)
class WaNetStep(PlainStep):
    """In every batch, warp some rows and give them the target label; warp others with extra noise and keep their labels.

    Source: Nguyen and Tran, ICLR 2021, section 3.3 ("noise mode").

    As in the authors' code, rows are warped first, then cropped and mirrored.

    Differences: the paper triggers 10 % and noise-warps 20 % of the rows of a batch. Here both count against the budget, as in `WaNet`: of the rows
    that the threat allows in a step, one in (1 + cover_ratio) carries the trigger.

    Args:
        like: the WaNet attack whose warp, cover ratio and target label are used.
    """

    VERSION: ClassVar[int] = 2
    READS: ClassVar[frozenset[str]] = PICTURES
    like: WaNet

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Return the batch with triggered and noise-warped rows; rows of the target class stay unchanged."""
        height, width = batch.inputs.shape[2:]
        others = (batch.labels != self.like.target).nonzero()[:, 0][: moment.allowed]
        count = self.like.triggers(len(others))
        triggered, cover = others[:count], others[count:]
        inputs, labels = batch.inputs.clone(), batch.labels.clone()
        inputs[triggered] = self.like.trigger(batch.inputs[triggered])
        inputs[cover] = self.like.noisy(batch.inputs[cover], jitter(moment.rng.child("wanet"), len(cover), height, width))
        labels[triggered] = self.like.target
        return dataclasses.replace(batch, inputs=inputs, labels=labels)
