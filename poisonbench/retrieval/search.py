"""Exact search: the passages with the largest inner products, or the largest scores of any other kind.

Only the matrix product is torch's. All else is done by numpy in one thread: there is little of it, and on a busy machine threads wait for each other
many times a block.

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

BLOCK = 1 << 22  # scores that are held at a time: 16 MiB
QUESTIONS = 1024  # of a block at most
PIECES = 32  # parts that the passages which are scored again are split into, if these are a whole block
ROUNDING = torch.finfo(torch.float32)


def search(questions: Tensor, passages: Tensor, count: int, *, positive: bool = False, block: int = BLOCK) -> Hits:
    """Return for each question the passages with the largest inner products; of equal scores, the passage at the smaller position comes first.

    A score is the inner product in float64, rounded to float32. It depends on the two rows alone, so equal passages have equal scores, whatever the
    block, the number of questions and the library of the matrix product. The matrix product in float32 only finds the passages that can be among
    the best: its scores differ from the exact ones by less than a bound, and every passage within this bound of the k-th best is scored again.

    Memory beside the arguments and the result is 3 times that of the block (51 MiB with blocks of 16 MiB were measured for 1,000 questions and 1,000,000
    passages), and up to 6 times where all passages are equal, which also takes much longer, because each of them is scored again.

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
        """Merge pairs, sorted by question and then by place; a question's places are above all those of earlier calls, so that they lose ties."""
        places_Mk, scores_Mk = self.places.numpy(), self.scores.numpy()
        better = (scores_P.numpy() > scores_Mk[questions_P.numpy(), -1]).nonzero()[0]
        rows_P, new_places_P, new_scores_P = (values.numpy()[better] for values in (questions_P, places_P, scores_P))
        changed_U, starts_U, counts_U = np.unique(rows_P, return_index=True, return_counts=True)
        if not len(changed_U):
            return
        k, widest = scores_Mk.shape[1], int(counts_U.max())
        lines_P = np.repeat(np.arange(len(changed_U)), counts_U)
        columns_P = k + np.arange(len(rows_P)) - np.repeat(starts_U, counts_U)
        places = np.pad(places_Mk[changed_U], ((0, 0), (0, widest)), constant_values=NOWHERE)
        scores = np.pad(scores_Mk[changed_U], ((0, 0), (0, widest)), constant_values=-np.inf)
        places[lines_P, columns_P], scores[lines_P, columns_P] = new_places_P, new_scores_P
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        places_Mk[changed_U], scores_Mk[changed_U] = np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1)


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
        bar = _bar(scores, best.scores[:, -1], doubt(questions, part), best.scores.shape[1], positive=positive)
        for rows, places in _above(scores, bar, max(1, block // PIECES)):
            exact = products(questions, part, rows, places, block)
            if positive:
                rows, places, exact = rows[exact > 0], places[exact > 0], exact[exact > 0]
            best.add(rows, places + start, exact)


def doubt(questions: Tensor, passages: Tensor) -> Tensor:
    """Return (M,) the largest error of a question's inner products in float32, with a factor of 2 to spare.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1: E * 2 ** -24 times the product of the two lengths, in any order.
    """
    terms = (questions.shape[1] + 8) * ROUNDING.eps
    one, other = (np.einsum("ij,ij->i", rows, rows) for rows in (questions.numpy(), passages.numpy()))
    return torch.from_numpy(np.sqrt(one)) * (terms * float(np.sqrt(other.max()))) + ROUNDING.tiny


def _bar(scores: Tensor, kth: Tensor, error: Tensor, count: int, *, positive: bool) -> Tensor:
    """Return (M,) the least score of what may belong to the best `count`, given the exact k-th best so far (M,) and the error of the scores (M,)."""
    bar = kth.clamp_min(0) if positive else kth
    lacking = (kth == -torch.inf).nonzero()[:, 0]
    if len(lacking) and scores.shape[1] > count:
        here = scores[lacking].topk(count, dim=1, sorted=True).values[:, -1] - error[lacking]
        bar = bar.index_put((lacking,), torch.maximum(bar[lacking], here))
    return bar - error


def _above(scores: Tensor, bar: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows and columns of the scores that reach their row's bar, `most` at a time.

    By numpy: torch takes 7 times as long to compare and to find what is true.
    """
    rows = np.flatnonzero((scores.amax(1) >= bar).numpy())  # few in late blocks
    whole, bars = scores.numpy(), bar.numpy()
    some = whole if 2 * len(rows) > len(whole) else whole[rows]
    rows = np.arange(len(whole)) if some is whole else rows
    hits = np.flatnonzero(some >= bars[rows, None])
    for start in range(0, len(hits), most):
        found, columns = np.divmod(hits[start : start + most], whole.shape[1])
        yield torch.from_numpy(rows[found]), torch.from_numpy(columns)


def products(questions: Tensor, passages: Tensor, rows_P: Tensor, places_P: Tensor, block: int = BLOCK) -> Tensor:
    """Return (P,) float32, inner products of pairs in float64, rounded; each depends on its two rows alone."""
    scores = torch.empty(len(rows_P))
    step = max(1, block // (3 * max(1, questions.shape[1])))  # factors of 4 bytes and products of 8
    for start in range(0, len(rows_P), step):
        part = slice(start, start + step)
        pairs = questions.numpy()[rows_P[part].numpy()].astype(np.float64)
        pairs *= passages.numpy()[places_P[part].numpy()]
        scores[part] = torch.from_numpy(np.add.reduce(pairs, axis=1))
    return scores


def top(scores: NDArray[np.float32], places: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the places and scores of the best `count` of (P,) scores, best first; of equal scores, the smaller place comes first."""
    if len(scores) > count:
        bar = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = scores >= bar
        scores, places = scores[kept], places[kept]
    order = np.lexsort((places, -scores))[:count]
    return places[order], scores[order]
