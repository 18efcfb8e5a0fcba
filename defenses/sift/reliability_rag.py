"""ReliabilityRAG: the largest set of passages of which no two contradict each other.

Shape letters: D passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.sift.deeper import Deeper
from poisonbench.core.errors import ConfigError
from poisonbench.core.retrieve import NONE_OF_THEM, Found

MOST = 20  # passages for which the exact search is meant


@dataclass(frozen=True, kw_only=True)
class ReliabilityRag(Deeper):
    """Keep the largest set of passages that do not contradict each other; of equally large sets, the one with the better ranks.

    Source: Shen, Imana, Wu, Xiang, Mittal, Korolova, "ReliabilityRAG: Effective and Provably Robust Defense for RAG-based Web-Search", NeurIPS 2025
    (arXiv 2509.23519): each passage is answered from alone, two passages whose answers contradict are joined by an edge, and the answer comes from a
    maximum independent set. Ties go to the set whose best ranks are better, compared rank by rank.

    Differences: a language model for entailment finds the paper's contradictions. Here two passages contradict if the reader takes two different
    answers from them; a passage without an answer contradicts nobody. With these edges the set is all passages of the answer with the most passages,
    and those without an answer; the search is exact for other edges too. The paper's sampling for more than about 20 passages, and its guarantee, are
    not here.

    Args:
        reach: passages that are judged, over those that are read, 1 or more (paper: 1); at most 20 passages are judged.
    """

    VERSION: ClassVar[int] = 1

    def depth(self, top: int) -> int:
        """Return how many passages it wants to see where `top` are read.

        Raises:
            ConfigError: more than the exact search is meant for.
        """
        if (deep := super().depth(top)) > MOST:
            raise ConfigError(
                f"reliability_rag searches at most {MOST} passages exactly, and {deep} are asked for; lower defense.train.sift.reach or learner.top"
            )
        return deep

    def keep(self, found: Found) -> Tensor:
        """Return (D,) bool, the passages of the set."""
        answers = found.answers
        says = answers != NONE_OF_THEM
        edges_DD = (answers[:, None] != answers) & says[:, None] & says
        kept = independent([sum(1 << place for place in row.nonzero()[:, 0].tolist()) for row in edges_DD])
        return torch.tensor([bool(kept >> place & 1) for place in range(len(answers))], dtype=torch.bool)


def independent(edges: Sequence[int]) -> int:
    """Return the bits of the largest set of places without an edge between them; of equally large sets, the first in lexicographic order.

    Branch and bound: the first place that is left is taken before it is left out, so sets come in lexicographic order, and only a larger one replaces
    the best so far.

    Args:
        edges: for each place, the bits of the places that it has an edge to; symmetric, and none to itself.
    """
    best = 0

    def search(taken: int, left: int) -> None:
        nonlocal best
        if taken.bit_count() + left.bit_count() <= best.bit_count():
            return
        if not left:
            best = taken
            return
        first = left & -left
        search(taken | first, left & ~first & ~edges[first.bit_length() - 1])
        if edges[first.bit_length() - 1] & left:  # else it is in every largest set
            search(taken, left & ~first)

    search(0, (1 << len(edges)) - 1)
    return best
