"""RobustRAG: each passage that is read alone has one vote.

Shape letters: R passages in the order of their ranks, K candidate answers, M questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.defense import Server
from poisonbench.core.errors import ConfigError
from poisonbench.core.retrieve import NONE_OF_THEM

WHOLE = 1 << 30  # weights are whole multiples of 1 / WHOLE, so sums of votes are exact and two sums are equal or not, whatever their order


@dataclass(frozen=True, kw_only=True)
class PassageVote:
    """Let every passage vote for the answer that the reader takes from it alone; the answer with the most votes wins.

    Source: Xiang, Wu, Zhong, Wagner, Chen, Mittal, "Certifiably Robust RAG against Retrieval Corruption", 2024 (arXiv 2405.15556): isolate, then
    aggregate. Passages from which the reader takes no answer abstain. "vote" is the paper's majority vote over choices; "keyword" is its filter of
    rare keywords: of m passages that answer, answers with fewer than min(alpha m, beta) votes are dropped. Ties go to the candidate at the smaller
    place; without a vote that counts the answer is "none of them".

    Differences: the paper asks a language model, takes several keywords from each of its replies, and lets the model answer once more from the keywords
    that are left. Here a passage votes for one candidate answer, and the vote decides. Where all passages weigh the same, the candidate with the most
    votes is the last that is dropped, so "keyword" differs from "vote" only if no candidate has enough votes: it then answers "none of them". Weights
    that fall with the rank are ours, after the sampling by rank of Shen et al., "ReliabilityRAG", 2025 (arXiv 2509.23519).

    Args:
        rule: "vote" or "keyword".
        alpha: share of the passages that answer, in [0, 1] (paper: 0.3); for "keyword".
        beta: number of passages, 0 or more (paper: 3); for "keyword".
        decay: weight of a passage over that of the passage one rank better, in (0, 1]; 1: all weigh the same (paper).
    """

    VERSION: ClassVar[int] = 1
    rule: Literal["vote", "keyword"]
    alpha: float
    beta: float
    decay: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (0 <= self.alpha <= 1 and self.beta >= 0 and 0 < self.decay <= 1):
            raise ConfigError(f"defense.aggregate: alpha={self.alpha} lies in [0, 1], beta={self.beta} is 0 or more, decay={self.decay} lies in (0, 1]")

    def check(self, contributors: int, malicious: int) -> None:
        """Refuse nothing: one passage can vote."""

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (K,) float64 votes from (R, K) rows, the row of the best passage first."""
        votes_R, kinds = self.votes(rows_RP), rows_RP.shape[1]
        counts = votes_R.bincount(minlength=kinds)
        weights = torch.zeros(kinds, dtype=torch.int64).index_add_(0, votes_R, self.weights(len(votes_R)))
        weights[NONE_OF_THEM] = 0
        dropped = counts < self.least((votes_R != NONE_OF_THEM).sum())
        return weights.masked_fill(dropped, 0).double() / WHOLE

    def votes(self, rows: Tensor) -> Tensor:
        """Return (..., R) int64, the answer of each of (..., R, K) rows; 0 is an abstention."""
        return rows.argmax(-1)

    def weights(self, count: int) -> Tensor:
        """Return (count,) int64, the weight of a vote at each rank, in units of 1 / WHOLE."""
        return torch.tensor([round(self.decay**rank * WHOLE) for rank in range(count)], dtype=torch.int64)

    def least(self, answering: Tensor) -> Tensor:
        """Return (...) int64, the votes without which an answer is dropped if (...) passages answer."""
        if self.rule == "vote":
            return torch.zeros_like(answering)
        return (self.alpha * answering.double()).clamp_max(self.beta).ceil().long()
