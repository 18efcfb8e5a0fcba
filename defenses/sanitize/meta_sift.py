"""Meta-Sift: find a clean part of the rows by a split whose one side makes the losses of the other large.

Shape letters: N rows, B rows of a batch, D features, K classes, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES

PROBES = (0.0, 5.0)  # losses of a row that is learned and of one that is not
HIDDEN = (100, 150)  # units of the network of weights, as in the published code


@dataclass(frozen=True, kw_only=True)
class MetaSift:
    """Keep the rows that get the largest weights in a split of two levels.

    Source: Zeng, Pan, Jahagirdar, Jin, Lyu, Jia, "Meta-Sift: How to Sift Out a Clean Subset in the Presence of Data Poisoning?", USENIX Security 2023.
    A model trains on weighted rows, and a small network gives each row its weight from its loss alone. Each step

    1. moves the model by a virtual step on the weighted losses of a batch;
    2. moves the network of weights, through the virtual step, so that the rows with small weights have large losses;
    3. moves the model on the losses with the new weights.

    The weights of several such sifters, each from other initial values, are averaged. The largest ones of each class are kept. The poison has to be
    the smaller part of the rows.

    Differences: the paper's virtual step goes through some of the last layers of a deep network, which a learned gate selects. Here the model is the
    last layer alone, trained anew on the standardised features of a victim that has trained on all rows for `warmup` epochs. All sifters share that
    victim. The last layer is trained by SGD, not AdamW. Rows are not augmented when their weights are read.

    Measured on the digits with 40 % wrong labels, AUROC within class of the ranking on the seeds 100 and 101: symmetric noise 0.996 and 0.999, asymmetric
    0.760 and 0.877, instance-dependent 0.966 and 0.974.

    Args:
        share: of each class that is kept, in (0, 1]. The paper keeps few rows, such as 1,000, as the clean base of another defense.
        sifters: number of sifters, 1 or more (published code: 5).
        warmup: epochs of the victim and of the last layer before the split, 1 or more (published code: 1).
        epochs: passes over the rows with the three steps, 1 or more (published code: 1).
        batch_size: rows of a step, 2 or more.
        lr: learning rate of the last layer, virtual and real, above 0.
        weight_lr: learning rate of the network of weights, above 0.
    """

    VERSION: ClassVar[int] = 2
    READS: ClassVar[frozenset[str]] = PICTURES
    SEVERAL_CLASSES: ClassVar[bool] = True
    share: float
    sifters: int
    warmup: int
    epochs: int
    batch_size: int
    lr: float
    weight_lr: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 < self.share <= 1:
            raise ConfigError(f"defense.sanitize.share={self.share}: give a share of the rows in (0, 1], such as 0.5")
        if min(self.sifters, self.warmup, self.epochs) < 1 or self.batch_size < 2:
            raise ConfigError("defense.sanitize: sifters, warmup and epochs are 1 or more, batch_size is 2 or more")
        if not (0 < self.lr < math.inf and 0 < self.weight_lr < math.inf):
            raise ConfigError(f"defense.sanitize: lr={self.lr} and weight_lr={self.weight_lr} are finite numbers above 0")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Average the weights of all sifters, and keep the rows with the largest ones."""
        features_ND = standardised(means.tune(None, data, epochs=self.warmup).features(data.inputs))
        weights = [self.sift(features_ND, data, rng.child(f"sifter/{number}")) for number in track(self.sifters, "sifters")]
        weights_N = torch.stack(weights).mean(0)
        return Verdict(keep=top_of_each_class(weights_N, data.labels, self.share), suspicion=(1 - weights_N).float())

    def sift(self, features_ND: Tensor, data: Dataset, rng: Key) -> Tensor:
        """Return the (N,) weights that one sifter gives, in (0, 1)."""
        draws = rng.child("start").torch()
        head_DK = 0.01 * torch.randn(features_ND.shape[1], data.num_classes, generator=draws, dtype=torch.float64)
        net = weight_net(draws)
        for epoch in range(self.warmup + self.epochs):
            order = rng.child("order").per_row(data.ids, epoch)[:, 0].argsort(stable=True)
            for rows in order.tensor_split(math.ceil(len(order) / self.batch_size)):
                batch, labels = features_ND[rows], data.labels[rows]
                if epoch >= self.warmup:
                    net = self.moved(net, head_DK, batch, labels)
                    chosen_B = normed(weight(net, row_losses(head_DK, batch, labels)))
                else:
                    chosen_B = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
                head_DK = virtual(head_DK, chosen_B, batch, labels, self.lr).detach()
        return weight(net, row_losses(head_DK, features_ND, data.labels))

    def moved(self, net: Sequence[Tensor], head_DK: Tensor, batch_BD: Tensor, labels_B: Tensor) -> list[Tensor]:
        """Return the network of weights after one step down the outer loss."""
        followed = [part.detach().requires_grad_() for part in net]
        gradients = torch.autograd.grad(outer(followed, head_DK, batch_BD, labels_B, self.lr), followed)
        return [(part - self.weight_lr * gradient).detach() for part, gradient in zip(followed, gradients, strict=True)]


def outer(net: Sequence[Tensor], head_DK: Tensor, batch_BD: Tensor, labels_B: Tensor, lr: float) -> Tensor:
    """Return minus the loss of the rows with small weights, after a virtual step on the rows with large ones."""
    before_B = row_losses(head_DK, batch_BD, labels_B)
    after_B = row_losses(virtual(head_DK, normed(weight(net, before_B)), batch_BD, labels_B, lr), batch_BD, labels_B)
    return -(normed(1 - weight(net, after_B.detach())) * after_B).sum()


def virtual(head_DK: Tensor, weights_B: Tensor, batch_BD: Tensor, labels_B: Tensor, lr: float) -> Tensor:
    """Return the last layer after one step down the weighted cross-entropies; its gradient is written out, so that weights can be followed."""
    errors_BK = (batch_BD @ head_DK).softmax(1) - F.one_hot(labels_B, head_DK.shape[1])
    return head_DK - lr * batch_BD.T @ (weights_B[:, None] * errors_BK)


def row_losses(head_DK: Tensor, features_ND: Tensor, labels_N: Tensor) -> Tensor:
    """Return the (N,) cross-entropies."""
    return F.cross_entropy(features_ND @ head_DK, labels_N, reduction="none")


def weight_net(draws: torch.Generator) -> list[Tensor]:
    """Return the initial matrices and biases of the network of weights.

    The weight of a row falls with its loss: the last layer has the other sign if it rose. Otherwise half of the networks would begin by sifting out the
    clean rows, and a few steps do not turn them round.
    """
    sizes, parts = (1, *HIDDEN, 1), list[Tensor]()
    for inputs, outputs in pairwise(sizes):
        for shape in ((inputs, outputs), (outputs,)):
            parts.append((2 * torch.rand(shape, generator=draws, dtype=torch.float64) - 1) / math.sqrt(inputs))
    small, large = weight(parts, torch.tensor(PROBES, dtype=torch.float64)).tolist()
    return parts if large < small else [*parts[:-2], -parts[-2], -parts[-1]]


def weight(net: Sequence[Tensor], losses_B: Tensor) -> Tensor:
    """Return the (B,) weights of rows with these losses."""
    first, second, last = zip(net[::2], net[1::2], strict=True)
    units_BH = losses_B[:, None]
    for matrix, bias in (first, second):
        units_BH = (units_BH @ matrix + bias).relu()
    return torch.sigmoid(units_BH @ last[0] + last[1])[:, 0]


def normed(weights_B: Tensor) -> Tensor:
    """Return the weights divided by their sum."""
    return weights_B / weights_B.sum().clamp_min(1e-4)


def standardised(features_ND: Tensor) -> Tensor:
    """Return (N, D + 1) float64: features with mean 0 and a mean squared length of 1, and a column of ones."""
    centred = features_ND.double() - features_ND.double().mean(0)
    scale = centred.square().sum(1).mean().sqrt().clamp_min(1e-12)
    return torch.cat([centred / scale, torch.ones(len(centred), 1, dtype=torch.float64)], 1)


def top_of_each_class(weights_N: Tensor, labels_N: Tensor, share: float) -> Tensor:
    """Return (N,) bool: in each class the share of rows with the largest weights, rounded up."""
    keep_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique().tolist():
        rows = (labels_N == label).nonzero()[:, 0]
        keep_N[rows[weights_N[rows].argsort(descending=True, stable=True)[: math.ceil(share * len(rows) - 1e-9)]]] = True
    return keep_N
