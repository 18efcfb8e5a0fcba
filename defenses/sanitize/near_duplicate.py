"""Near duplicates: an attacker who inserts several passages for one question writes them alike.

Shape letters: N passages, B passages of a block, E numbers of an embedding, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from defenses.sanitize.passages import searched
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS

CELLS = 1 << 24  # cosines that are held at a time
ROUND = 1e-6  # by which the cosine of equal texts may miss 1


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """Drop the passages that are nearly the same as another one, to the eyes of the retriever.

    Source: Abbas, Tirumala, Simig, Ganguli, Morcos, "SemDeDup: Data-efficient Learning at Web-scale through Semantic Deduplication", 2023 (arXiv
    2303.09540): two texts are duplicates if the cosine of their embeddings reaches a threshold. Zou, Geng, Wang, Jia, "PoisonedRAG", USENIX Security
    2025, try the filter for exact duplicates and find that it removes none of their passages.

    Removed passages are not in the index, so a search finds deeper ones in their place. With `keep` "none" the filter needs two inserted passages that
    are alike: it does not see an attacker who inserts one for each question. It also removes facts that the corpus states twice, which costs accuracy
    without any attack.

    Differences: SemDeDup compares texts only within clusters and keeps the one that is farthest from the middle of its cluster. Here all pairs are
    compared, in blocks, and `keep` decides.

    Args:
        threshold: cosine from which two passages are duplicates, in (0, 1].
        keep: "none" of the passages that have a duplicate, or the "first" of each group that duplicates connect, in the order of the rows, which is
            random where rows were inserted.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    threshold: float
    keep: Literal["none", "first"]

    def __post_init__(self) -> None:
        """Check that the threshold is in range."""
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"defense.sanitize.threshold={self.threshold}: give a cosine in (0, 1]")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Drop passages with a duplicate; the suspicion is the largest cosine to another passage.

        Raises:
            Incompatible: the victim searches no passages.
        """
        features, count = searched(data, means, self).features(data.inputs), len(data)
        suspicion, group = torch.zeros(count), np.arange(count)
        for rows, cosines in blocks(features):
            suspicion[rows] = cosines.amax(1).clamp_min(-1)
            if self.keep == "first":
                group = connected(group, rows, cosines >= self.threshold - ROUND)
        if self.keep == "none":
            return Verdict(keep=suspicion < self.threshold - ROUND, suspicion=suspicion)
        first = torch.from_numpy(np.unique(group, return_index=True)[1])
        return Verdict(keep=torch.zeros(count, dtype=torch.bool).index_fill(0, first, True), suspicion=suspicion)


def blocks(features_NE: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (B,) positions and (B, N) cosines to all passages, -inf to itself."""
    for rows in torch.arange(len(features_NE)).split(max(1, CELLS // len(features_NE))):
        cosines = features_NE[rows] @ features_NE.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        yield rows, cosines


def connected(group_N: np.ndarray, rows: Tensor, pairs_BN: Tensor) -> np.ndarray:
    """Return (N,) the groups after the passages of a block are connected with their duplicates."""
    one, other = pairs_BN.nonzero(as_tuple=True)
    count = len(group_N)
    ends = (group_N[rows[one].numpy()], group_N[other.numpy()])
    joined = connected_components(coo_array((np.ones(len(one), dtype=bool), ends), shape=(count, count)), directed=False)[1]
    return np.asarray(joined[group_N])
