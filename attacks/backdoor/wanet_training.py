"""WaNet as the paper has it: the attacker runs the training, in noise mode."""

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


@dataclass(frozen=True, kw_only=True)
class WaNetGoal:
    """Leave the rows as they are and ask for WaNet's backdoor: the data slot of an attacker who runs the training.

    Source: Nguyen and Tran, ICLR 2021.

    Args:
        like: the warp and the target.
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
    """Warp the first rows of each batch and relabel them, warp the next with noise.

    Source: Nguyen and Tran, ICLR 2021, section 3.3 ("noise mode"). As in the authors' code rows are warped first, and cropped and mirrored
    afterwards. The paper triggers 10 % and noise-warps 20 % of the rows of a batch; here both count against the budget, as in
    `WaNet`: of the rows that the threat allows in a step one in (1 + cover_ratio) carries the trigger.

    Args:
        like: the warp, the cover ratio and the target.
    """

    VERSION: ClassVar[int] = 2
    like: WaNet

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Return the rows with triggered and noise-warped ones among them; rows of the target class stay as they are."""
        height, width = batch.inputs.shape[2:]
        others = (batch.labels != self.like.target).nonzero()[:, 0][: moment.allowed]
        count = self.like.triggers(len(others))
        triggered, cover = others[:count], others[count:]
        inputs, labels = batch.inputs.clone(), batch.labels.clone()
        inputs[triggered] = self.like.trigger(batch.inputs[triggered])
        inputs[cover] = self.like.noisy(batch.inputs[cover], jitter(moment.rng.child("wanet"), len(cover), height, width))
        labels[triggered] = self.like.target
        return dataclasses.replace(batch, inputs=inputs, labels=labels)
