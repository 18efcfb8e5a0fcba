"""Deep k-NN: a row whose nearest neighbours have another label is suspicious.

Shape letters: N rows, K classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.abilities import features_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class DeepKnn:
    """Keep a row if its own label is the most frequent among its k nearest rows, itself included.

    Source: Peri, Gupta, Huang, Fowl, Zhu, Feizi, Goldstein, Dickerson, "Deep k-NN Defense Against Clean-Label Data Poisoning Attacks", ECCV 2020
    workshops. There k should exceed twice the number of poisons.

    Votes are divided by the size of their class, the paper's remedy for unbalanced classes. Ties keep the row. Features are those of the undefended
    victim.

    The filter is made for poison among rows of another class, such as flipped labels and feature collisions. Poison that forms its own cluster is
    kept, since its neighbours are poison with the same label.

    Args:
        neighbours: k, the row itself included, 2 or more (paper: 50 for 5 poisons and more).
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    FINDS: ClassVar[Finds] = Finds(kind="label error", reads="short", because="labelled {label}, but the rows most like it are mostly labelled {guess}")
    neighbours: int

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.neighbours < 2:
            raise ConfigError(f"defense.sanitize.neighbours={self.neighbours}: give 2 or more; a row is its own nearest neighbour")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Compare the label of every row with those of its neighbours."""
        shares_NK = votes(features_of(means.fit(data), data), data, min(self.neighbours, len(data)))
        own = shares_NK.gather(1, data.labels[:, None])[:, 0]
        guess = shares_NK.scatter(1, data.labels[:, None], -1.0).argmax(1)
        return Verdict(keep=own >= shares_NK.max(1).values, suspicion=(1 - own).float(), evidence={"guess": guess})


def votes(features_ND: Tensor, data: Dataset, k: int) -> Tensor:
    """Return (N, K), the share of each label among the k nearest rows, each weighted by 1 / the size of its class."""
    from sklearn.neighbors import NearestNeighbors

    points = features_ND.double().numpy()
    near = torch.from_numpy(NearestNeighbors(n_neighbors=k).fit(points).kneighbors(points, return_distance=False))
    sizes = torch.bincount(data.labels, minlength=data.num_classes).clamp_min(1)
    counted = torch.nn.functional.one_hot(data.labels[near], data.num_classes).sum(1) / sizes.double()
    return counted / counted.sum(1, keepdim=True)
