"""UEraser: train on the augmented view of each row that the model finds hardest.

Shape letters: B rows of a batch, V views of a row, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.train.augmentations import brightened, contrasted, plasma, shuffled, trivially_augmented
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, ChangedObjective, Moment, Network, Objective, PlainStep, Plan
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES

CHANCE = 0.5  # of each change but the last
ROUGHNESS = (0.3, 0.7)
INTENSITY = (0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class EraserStep(PlainStep):
    """Augment every row several times, and train on the view with the largest loss.

    Source: Qin, Gao, Zhao, Ye, Xu, "Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example Attacks", AROW workshop at ICCV
    2023 (arXiv 2303.15127). views=1 is UEraser-lite; views=5 with maximise=1 is UEraser-max.

    A view has, each with probability one half: plasma brightness, plasma contrast, shuffled channels. Then one operation of TrivialAugment follows.
    After a share `maximise` of the epochs, one view is drawn per row.

    Differences: the authors' code takes plasma from the diamond-square algorithm and TrivialAugment from kornia, which draws one operation for
    a whole batch, with positive strengths alone. Here plasma is a sum of random grids, smoothed bilinearly, and each row draws its operation
    and a strength of either sign. All views are scored in passes without gradients, in training mode as there, so each pass has the batch statistics of
    one view; the hardest views of all rows then form the batch that is trained on. There the gradient flows through the pass over all views.
    Not included: the variant that also compresses by JPEG.

    Args:
        views: V, views per row, 1 or more (paper: 5).
        maximise: share of the epochs in which the hardest view is chosen, in [0, 1] (authors' code: 60 of 200, so 0.3).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    views: int
    maximise: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.views < 1 or not 0 <= self.maximise <= 1:
            raise ConfigError(f"defense.train.step: views={self.views} is 1 or more, maximise={self.maximise} lies in [0, 1]")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check that the inputs are pictures.

        Raises:
            Incompatible: they are not.
        """
        if len(plan.shape) != 3:
            raise Incompatible(f"ueraser augments pictures; this learner's model sees inputs of shape {plan.shape}")

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective on the hardest of several views, or on one random view."""
        views = self.views if moment.epoch < self.maximise * moment.plan.epochs else 1
        return Hardest(inner=objective, views=views, rng=moment.rng.child("views"))


@dataclass(frozen=True, kw_only=True)
class Hardest(ChangedObjective):
    """An objective on the view of each row with the largest loss.

    Args:
        inner: the objective of a view.
        views: V, views per row; with 1 nothing is compared.
        rng: of this step.
    """

    VERSION: ClassVar[int] = 1
    views: int
    rng: Key

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) losses of the hardest views."""
        shown = [dataclasses.replace(batch, inputs=seen(batch.inputs, self.rng.child(str(number)))) for number in range(self.views)]
        if self.views == 1:
            return self.inner(network, shown[0], label_smoothing)
        with torch.no_grad():
            losses_VB = torch.stack([self.inner(network, view, label_smoothing) for view in shown])
        inputs = torch.stack([view.inputs for view in shown])[losses_VB.argmax(0), torch.arange(len(batch.labels))]
        return self.inner(network, dataclasses.replace(batch, inputs=inputs.contiguous(memory_format=torch.channels_last)), label_smoothing)


def seen(inputs: Tensor, rng: Key) -> Tensor:
    """Return one random view of each of (B, C, H, W) pictures in 0..255, on their device."""
    place, inputs = inputs.device, inputs.cpu()
    rows, (height, width), generator = len(inputs), inputs.shape[2:], rng.torch()
    changes = torch.rand(rows, 3, generator=generator) < CHANCE
    roughness_B2 = ROUGHNESS[0] + (ROUGHNESS[1] - ROUGHNESS[0]) * torch.rand(rows, 2, generator=generator)
    intensity_B = INTENSITY[0] + (INTENSITY[1] - INTENSITY[0]) * torch.rand(rows, generator=generator)
    light, contrast = (plasma((rows, height, width), roughness_B2[:, kind], generator) for kind in range(2))
    inputs = torch.where(changes[:, 0, None, None, None], brightened(inputs, light, intensity_B), inputs)
    inputs = torch.where(changes[:, 1, None, None, None], contrasted(inputs, contrast), inputs)
    inputs = torch.where(changes[:, 2, None, None, None], shuffled(inputs, generator), inputs)
    return trivially_augmented(inputs, generator).to(place).contiguous(memory_format=torch.channels_last)
