"""CleanCLIP: fine-tuning that also aligns each picture with views of itself, and each caption with views of itself.

Shape letters: B rows of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.views import Views
from poisonbench.core.defense import Means, Mended, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, ChangedObjective, Moment, Network, Objective, PlainStep, Plan, Victim
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION
from poisonbench.nets.towers import PairNet, pair_net


@dataclass(frozen=True, kw_only=True)
class CleanClip:
    """Continue to train a model of pictures and captions on trusted pairs, with losses inside each modality beside the one between them.

    Source: Bansal, Singhi, Yang, Yin, Grover, Chang, "CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning", ICCV 2023.
    The losses inside a modality give a picture with a trigger back its place among pictures like it. As in the authors' code, the loss of a pair is
    that of the model, plus `weight` times the mean of two InfoNCE losses: the picture against a view of it, and the caption against a view of it.

    Differences: the learning rates are those of the victim's recipe, where the paper's are far below those of its pre-training; views are those of
    `defenses.views.Views`, where the paper has AutoAugment for pictures and all four changes of EDA for captions.

    `fine_tune` is the control: the same training with the loss between pictures and captions alone.

    Args:
        epochs: passes over the trusted pairs, 1 or more (paper: 10).
        weight: of the losses inside a modality, 0 or more (paper: 1).
        views: how pictures and captions are changed.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    COLUMNS: ClassVar[tuple[str, ...]] = (CAPTION,)
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    epochs: int
    weight: float
    views: Views

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.epochs < 1 or not 0 <= self.weight < math.inf:
            raise ConfigError(f"defense.repair: epochs={self.epochs}, weight={self.weight}; give 1 epoch or more, and a finite weight of 0 or more")

    def repair(self, victim: Victim, verdict: Verdict | None, means: Means, rng: Key) -> Mended:
        """Return the fine-tuned victim.

        Raises:
            Incompatible: the victim is no model of pictures and captions.
        """
        return Mended(victim=means.tune(victim, means.trusted, epochs=self.epochs, step=UnimodalStep(weight=self.weight, views=self.views)))


@dataclass(frozen=True, kw_only=True)
class UnimodalStep(PlainStep):
    """Add the losses inside each modality to the objective.

    Source: Bansal et al., ICCV 2023.

    Args:
        weight: of these losses.
        views: how pictures and captions are changed.
    """

    VERSION: ClassVar[int] = 1
    weight: float
    views: Views

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse all but models of pictures and captions.

        Raises:
            Incompatible: says what to choose.
        """
        pair_net(module, "defense=cleanclip")

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective with these losses."""
        net = pair_net(moment.module, "defense=cleanclip")
        return Unimodal(inner=objective, net=net, weight=self.weight, views=self.views, rng=moment.rng.child("views"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Unimodal(ChangedObjective):
    """An objective, plus the losses inside each modality.

    Args:
        inner: the objective.
        net: the model in training.
        weight: of these losses.
        views: how pictures and captions are changed.
        rng: of this step.
    """

    VERSION: ClassVar[int] = 1
    net: PairNet
    weight: float
    views: Views
    rng: Key

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        return self.inner(network, batch, label_smoothing) + self.weight * self.views.unimodal(self.net, batch, self.rng)
