"""TrustRAG, first stage: inserted passages for one question are alike, so they form a tight cluster among those that are found.

Shape letters: D passages, L tokens, E numbers of an embedding, P pairs of passages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from defenses.sift.deeper import Deeper
from poisonbench.core.errors import ConfigError
from poisonbench.core.retrieve import Found
from poisonbench.forms.tokens import PADDING

SEED = 0  # of the starts of the clustering, as in the released code


@dataclass(frozen=True, kw_only=True)
class ClusterTopK(Deeper):
    """Split the passages that are found into two clusters, and remove a cluster that is too tight, and passages that are copies within their cluster.

    Source: Zhou et al., "TrustRAG: Enhancing Robustness and Trustworthiness in Retrieval-Augmented Generation", 2025 (arXiv 2501.00879), first stage,
    as the released code has it (11dcea0):

    - If no two passages have a ROUGE-L above `overlap`, all are kept.
    - Embeddings are standardised, scaled to length 1 and split by 2-means. A cluster is tight if the mean cosine of its pairs is above `tight`.
    - A tight cluster is removed. In what is left, passages with a ROUGE-L above `overlap` to another one of their cluster are removed.
    - A cluster of one passage is removed beside a cluster that is not tight. Beside a tight one it stays, unless its cosine to the first passage of the
      tight cluster is above `tight` too.

    Differences: the embeddings are those of the victim's retriever; the paper uses SimCSE, for which 0.88 was chosen. ROUGE-L compares words as they
    are, without stemming. The code compares each passage with later ones up to the first match and with the first that it removed; here all
    pairs of a cluster are compared. Two clusters of one passage each are kept, where the code keeps one of them. Passages that are all the same to the
    retriever are one cluster. The second stage of the paper asks a language model and is not here.

    Args:
        tight: mean cosine above which a cluster is removed, in [-1, 1] (paper: 0.88).
        overlap: ROUGE-L (F1) above which two passages are copies, in [0, 1] (paper: 0.25).
        reach: passages that are judged, over those that are read, 1 or more (paper: 1, removed passages are not replaced).
    """

    VERSION: ClassVar[int] = 1
    tight: float
    overlap: float

    def __post_init__(self) -> None:
        """Check that the thresholds are in range."""
        super().__post_init__()
        if not (-1 <= self.tight <= 1 and 0 <= self.overlap <= 1):
            raise ConfigError(f"defense.train.sift: tight={self.tight} lies in [-1, 1], overlap={self.overlap} in [0, 1]")

    def keep(self, found: Found) -> Tensor:
        """Return (D,) bool, the passages that are neither in a tight cluster nor copies."""
        alike_DD = rouge(found.passages) > self.overlap
        everything = torch.ones(len(alike_DD), dtype=torch.bool)
        if not alike_DD.any():
            return everything
        cosines_DD, side_D = found.features @ found.features.T, halves(found.features)
        if side_D is None:
            return everything if mean_pair(cosines_DD) <= self.tight else ~everything
        sizes = [int((side_D == side).sum()) for side in (0, 1)]
        if min(sizes) == 1 and max(sizes) > 1:
            return self.beside_one(cosines_DD, side_D == sizes.index(1))
        loose = [side for side in (0, 1) if mean_pair(cosines_DD[side_D == side][:, side_D == side]) <= self.tight]
        copies_D = (alike_DD & (side_D[:, None] == side_D)).any(1)
        return torch.isin(side_D, torch.tensor(loose, dtype=side_D.dtype)) & ~copies_D

    def beside_one(self, cosines_DD: Tensor, single_D: Tensor) -> Tensor:
        """Return what is kept of one passage and a cluster of all others."""
        others = (~single_D).nonzero()[:, 0]
        if mean_pair(cosines_DD[others][:, others]) <= self.tight:
            return ~single_D
        return single_D & (cosines_DD[others[0]] <= self.tight)


def mean_pair(cosines_DD: Tensor) -> float:
    """Return the mean cosine of two different passages; -1, which is never tight, for a single one."""
    pairs = cosines_DD[torch.ones_like(cosines_DD, dtype=torch.bool).triu(1)]
    return float(pairs.mean()) if len(pairs) else -1.0


def halves(features_DE: Tensor) -> Tensor | None:
    """Return (D,) int64, 0 or 1, the two clusters; None if the retriever cannot tell the passages apart."""
    differing = features_DE[:, (features_DE != features_DE[:1]).any(0)]  # others are 0 once they are standardised; lexical retrievers have thousands
    if differing.shape[1] == 0:
        return None
    scaled = StandardScaler().fit_transform(differing.double().numpy())
    points = torch.nn.functional.normalize(torch.from_numpy(scaled))
    if len(points.round(decimals=9).unique(dim=0)) < 2:
        return None
    found = KMeans(n_clusters=2, n_init=10, max_iter=500, random_state=SEED).fit(points.numpy())
    return torch.from_numpy(found.labels_).long()


def rouge(passages_DL: Tensor) -> Tensor:
    """Return (D, D) float64, ROUGE-L (F1) of two passages, symmetric; 0 of a passage to itself and to an empty one.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004: twice the longest common subsequence over both lengths together.
    """
    count, lengths = len(passages_DL), (passages_DL != PADDING).sum(1)
    one, other = torch.triu_indices(count, count, 1)
    texts = passages_DL[other]
    row = torch.zeros(len(one), passages_DL.shape[1] + 1, dtype=torch.int64)
    for words in passages_DL[one].unbind(1):  # a row of the table for all pairs at once: its entries grow from left to right
        same = (words[:, None] == texts) & (texts != PADDING)
        row = torch.nn.functional.pad(torch.maximum(row[:, 1:], row[:, :-1] + same), (1, 0)).cummax(1).values
    scores = torch.zeros(count, count, dtype=torch.float64)
    scores[one, other] = 2 * row[:, -1].double() / (lengths[one] + lengths[other]).clamp_min(1)
    return scores + scores.T
