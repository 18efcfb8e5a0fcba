"""Exact search: the passages with the largest inner products, or the largest scores of any other kind.

Shape letters: M questions, N passages, E numbers of an embedding, k passages found, P pairs of a question and a passage, U questions of a part,
B passages of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.retrieve import NOWHERE, Hits

BLOCK = 1 << 22  # scores that are held at a time: 16 MiB; on 2 cores, blocks of 4 and of 64 MiB take as long
QUESTIONS = 1024  # of a block at most
ROUNDING = torch.finfo(torch.float32)


def search(questions: Tensor, passages: Tensor, count: int, *, positive: bool = False, block: int = BLOCK) -> Hits:
    """Return for each question the passages with the largest inner products; of equal scores, the passage at the smaller position comes first.

    A score is the inner product in float64, rounded to float32. It depends on the two rows alone, so equal passages have equal scores, whatever the
    block, the number of questions and the library of the matrix product. The matrix product in float32 only finds the passages that can be among
    the best: its scores differ from the exact ones by less than a bound, and every passage within this bound of the k-th best is scored again.

    Memory beside the arguments and the result is about 1.5 times that of the block, 4 bytes a score; where very many scores are equal, up to 10 times.

    Args:
        questions: (M, E) float32, finite.
        passages: (N, E) float32, finite.
        count: k, 1 or more; of fewer passages than that, the rest are position -1 with score -inf.
        positive: find only passages with a score above 0.
        block: how many scores are held at a time.
    """
    assert count >= 1, "a search finds at least one passage"
    best = Best.none(len(questions), count)
    for start in range(0, len(questions), QUESTIONS):
        part = slice(start, start + QUESTIONS)
        _search_part(questions[part].contiguous(), passages, Best(best.places[part], best.scores[part]), positive=positive, block=block)
    return Hits(best.places, best.scores)


@dataclass(frozen=True, eq=False)
class Best:
    """The best passages so far, edited in place.

    Args:
        places: (M, k) int64, best first; -1 for none.
        scores: (M, k) float32; -inf for none.
    """

    places: Tensor
    scores: Tensor

    @classmethod
    def none(cls, questions: int, count: int) -> Best:
        """Return no passage yet."""
        return cls(torch.full((questions, count), NOWHERE), torch.full((questions, count), -torch.inf))

    def add(self, questions_P: Tensor, places_P: Tensor, scores_P: Tensor) -> None:
        """Merge pairs, sorted by question and then by place; their places are above all those of earlier calls, so that they lose ties."""
        better = scores_P > self.scores[questions_P, -1]
        questions_P, places_P, scores_P = questions_P[better], places_P[better], scores_P[better]
        counts = torch.bincount(questions_P, minlength=len(self.scores))
        changed_U = counts.nonzero()[:, 0]
        if not len(changed_U):
            return
        k, widest = self.scores.shape[1], int(counts.max())
        rows_P = torch.searchsorted(changed_U, questions_P)
        columns_P = k + torch.arange(len(questions_P)) - (counts.cumsum(0) - counts)[questions_P]
        both = Best.none(len(changed_U), k + widest)
        both.places[:, :k], both.scores[:, :k] = self.places[changed_U], self.scores[changed_U]
        both.places[rows_P, columns_P], both.scores[rows_P, columns_P] = places_P, scores_P
        scores, order = both.scores.sort(dim=1, descending=True, stable=True)
        self.scores[changed_U] = scores[:, :k]
        self.places[changed_U] = both.places.gather(1, order[:, :k])


class Block(NamedTuple):
    """The scores of questions and some of the passages, until the next block takes the same memory.

    Args:
        start: the position of the first passage.
        passages: (B, E).
        scores: (M, B) inner products in float32.
    """

    start: int
    passages: Tensor
    scores: Tensor


def blocks(questions: Tensor, passages: Tensor, block: int = BLOCK) -> Iterator[Block]:
    """Yield the inner products of (M, E) questions and (N, E) passages, block by block."""
    columns = max(1, block // max(1, len(questions)))
    room = torch.empty(len(questions) * min(columns, len(passages)))
    for start in range(0, len(passages), columns):
        part = passages[start : start + columns]
        yield Block(start, part, torch.mm(questions, part.T, out=room[: len(questions) * len(part)].view(len(questions), -1)))


def _search_part(questions: Tensor, passages: Tensor, best: Best, *, positive: bool, block: int) -> None:
    for start, part, scores in blocks(questions, passages, block):
        rows, places = _hopeful(scores, best.scores[:, -1], doubt(questions, part), best.scores.shape[1], positive=positive)
        exact = products(questions, part, rows, places, block)
        if positive:
            rows, places, exact = rows[exact > 0], places[exact > 0], exact[exact > 0]
        best.add(rows, places + start, exact)


def doubt(questions: Tensor, passages: Tensor) -> Tensor:
    """Return (M,) the largest error of a question's inner products in float32, with a factor of 2 to spare.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1: E * 2 ** -24 times the product of the two lengths, in any order.
    """
    terms = (questions.shape[1] + 8) * ROUNDING.eps
    longest = float(torch.linalg.vector_norm(passages, dim=1).amax())
    lengths_M: Tensor = torch.linalg.vector_norm(questions, dim=1)
    return lengths_M * (terms * longest) + ROUNDING.tiny


def _hopeful(scores: Tensor, kth: Tensor, error: Tensor, count: int, *, positive: bool) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the scores that may belong to the best `count`, given the exact k-th best so far (M,) and the error of the scores (M,)."""
    bar = kth.clamp_min(0) if positive else kth
    lacking = (kth == -torch.inf).nonzero()[:, 0]
    if len(lacking) and scores.shape[1] > count:
        here = scores[lacking].topk(count, dim=1, sorted=True).values[:, -1] - error[lacking]
        bar = bar.index_put((lacking,), torch.maximum(bar[lacking], here))
    bar = bar - error
    rows = (scores.amax(1) >= bar).nonzero()[:, 0]  # few in late blocks: one maximum is cheaper than a comparison of every score
    some = scores if 2 * len(rows) > len(scores) else scores[rows]
    rows = torch.arange(len(scores)) if some is scores else rows
    hits = (some >= bar[rows, None]).nonzero()
    return rows[hits[:, 0]], hits[:, 1]


def products(questions: Tensor, passages: Tensor, rows_P: Tensor, places_P: Tensor, block: int = BLOCK) -> Tensor:
    """Return (P,) float32, inner products of pairs in float64, rounded; each depends on its two rows alone."""
    scores = torch.empty(len(rows_P))
    step = max(1, block // (4 * max(1, questions.shape[1])))  # two factors and a product, of 8 bytes a number
    for start in range(0, len(rows_P), step):
        part = slice(start, start + step)
        one, other = questions[rows_P[part]].double().numpy(), passages[places_P[part]].double().numpy()
        scores[part] = torch.from_numpy(np.add.reduce(one * other, axis=1))
    return scores


def top(scores: NDArray[np.float32], places: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the places and scores of the best `count` of (P,) scores, best first; of equal scores, the smaller place comes first."""
    if len(scores) > count:
        bar = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = scores >= bar
        scores, places = scores[kept], places[kept]
    order = np.lexsort((places, -scores))[:count]
    return places[order], scores[order]
