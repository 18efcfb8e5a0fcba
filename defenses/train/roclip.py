"""RoCLIP: every few epochs pictures learn from the nearest caption of a random pool instead of their own.

Shape letters: B rows of a batch, Q captions of the pool.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.views import Views
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, ChangedObjective, Moment, Network, Objective, PlainStep, Plan
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION
from poisonbench.nets.towers import PairNet, pair_net

NAME = "defense=roclip"
POOL = "_roclip_pool"  # attribute of the module: (Q, L), the captions of this epoch's pool; None in epochs without matching


@dataclass(frozen=True, kw_only=True)
class MatchStep(PlainStep):
    """Change pictures and captions at random, and every few epochs give each picture the caption of a random pool that is nearest to it.

    Source: Yang, Gao, Mirzasoleiman, "Robust Contrastive Language-Image Pretraining against Data Poisoning and Backdoor Attacks", NeurIPS 2023
    (RoCLIP): a picture that is matched with captions of pictures like it does not learn its own, which may be poison.

    As in the authors' code, only pictures learn from such a match: the embeddings of the pool get no gradient.

    Differences: the pool of the authors' code is a queue of embeddings that earlier batches left; here it is drawn anew from the captions of all rows
    for each epoch with matching, and embedded anew in each step. Views are those of `defenses.views.Views`.

    Args:
        every: epochs from one with matching to the next, 1 or more (authors' code: 2).
        pool: captions of the pool / rows, in (0, 1] (authors' code: 21,845 captions for a million pairs, 0.02).
        views: how pictures and captions are changed.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    COLUMNS: ClassVar[tuple[str, ...]] = (CAPTION,)
    every: int
    pool: float
    views: Views

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.every < 1 or not 0 < self.pool <= 1:
            raise ConfigError(f"defense.train.step: every={self.every}, pool={self.pool}; give 1 epoch or more, and a share above 0 and at most 1")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse all but models of pictures and captions.

        Raises:
            Incompatible: says what to choose.
        """
        pair_net(module, NAME)

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Start without a pool."""
        setattr(module, POOL, None)

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Draw the pool of an epoch with matching, and keep the plan."""
        rows = moment.rng.child("pool").pick(data.ids, max(1, round(self.pool * len(data)))) if self.due(moment.epoch) else None
        setattr(moment.module, POOL, None if rows is None else data.extra[CAPTION][rows])
        return batches

    def due(self, epoch: int) -> bool:
        """Return whether pictures are matched in this epoch, counted from 0."""
        return (epoch + 1) % self.every == 0

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return views of the pictures and of the captions."""
        rng = moment.rng.child("views")
        captions = self.views.captions(batch.extra[CAPTION], batch.ids, rng)
        return dataclasses.replace(batch, inputs=self.views.pictures(batch.inputs, batch.ids, rng), extra={**batch.extra, CAPTION: captions})

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective; in epochs with matching, with the captions that pictures are matched with."""
        pool: Tensor | None = getattr(moment.module, POOL)
        return objective if pool is None else Matched(inner=objective, net=pair_net(moment.module, NAME), pool=pool)

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Remove the pool, and return in how many epochs pictures were matched."""
        delattr(module, POOL)
        return {"matched_epochs": sum(map(self.due, range(plan.epochs)))}


@dataclass(frozen=True, eq=False, kw_only=True)
class Matched(ChangedObjective):
    """An objective on pictures with the captions of a pool that are nearest to them.

    Args:
        inner: the objective.
        net: the model in training.
        pool: (Q, L) captions.
    """

    VERSION: ClassVar[int] = 1
    net: PairNet
    pool: Tensor

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses; captions get no gradient."""
        with torch.no_grad():
            pool_QE = self.net.captions(self.pool)
        # not in evaluation mode, whose running statistics lag behind in a short training
        pictures_BE = self.net.pictures(batch.inputs)
        similar = pictures_BE @ nearest(pictures_BE.detach(), pool_QE).T * self.net.scale
        return self.inner(lambda *_: similar, batch, label_smoothing)


def nearest(pictures_BE: Tensor, pool_QE: Tensor) -> Tensor:
    """Return (B, E), the embedding of the pool with the largest cosine to each picture."""
    return pool_QE[(pictures_BE @ pool_QE.T).argmax(1)]
