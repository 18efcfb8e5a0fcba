"""Which passages a victim reads, with ties counted against the defender.

A search gives passages of equal score an order, but the order says nothing: copies of a text can stand on either side of the last passage that is
read. So a tie at the edge of the k passages that are read is counted at its worst: poisoned passages get in before others, and those that answer the
question after all others.
A passage is known by its words (`poisonbench.core.retrieve.fingerprints`), because a defense may remove rows and so change positions.

Shape letters: M questions, K candidate answers, L places of a text, A places of an answer, k passages read, D passages tied, G passages looked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poisonbench.core.retrieve import NOWHERE, Hits, Retrieving, fingerprints

NOTHING = 0  # the fingerprint of no passage


class Reads(NamedTuple):
    """What is read of each question.

    Args:
        sure: (M, k) int64, fingerprints of the passages that are read in every order of equal scores; 0 for none.
        tied: (M, D) int64, fingerprints of the passages of equal score of which only some are read; 0 for none.
        places: (M,) int64, how many of them are read.
    """

    sure: Tensor
    tied: Tensor
    places: Tensor

    def take(self, rows: Tensor) -> Reads:
        """Return what is read of the questions at these positions."""
        return Reads(sure=self.sure[rows], tied=self.tied[rows], places=self.places[rows])

    def least(self, marks_MG: Tensor) -> Tensor:
        """Return (M,) int64, how many of the passages with these fingerprints are read at least; 0 is no passage. The index has no copies of them."""
        certain, some = (among(marks_MG, each).sum(1) for each in (self.sure, self.tied))
        return certain + (self.places - ((self.tied != NOTHING).sum(1) - some)).clamp_min(0)

    def most(self, marks_MG: Tensor) -> Tensor:
        """Return (M,) int64, how many passages with these fingerprints are read at most; 0 is no passage, and copies count each."""
        return among(self.sure, marks_MG).sum(1) + torch.minimum(self.places, among(self.tied, marks_MG).sum(1))


def reads(victim: Retrieving, inputs: Tensor, answers: Tensor) -> Reads:
    """Return what the victim reads of (M, L) questions with (M, K, A) candidate answers.

    Ties are seen in what is searched. Where a filter between search and reader changed the passages of a question, those that it left are taken as
    they are.
    """
    hits = victim.hits(inputs, answers)
    searched = victim.search(inputs, hits.places.shape[1])
    return edged(victim, inputs, hits, (hits.places == searched.places).all(1))


def edged(victim: Retrieving, inputs: Tensor, hits: Hits, plain_M: Tensor) -> Reads:
    """Return the passages of these hits, apart from ties at their edge, and the passages of such a tie.

    Args:
        victim: is searched for further passages of the score at the edge.
        inputs: (M, L).
        hits: (M, k).
        plain_M: bool, the questions whose hits are those of the search.
    """
    edges, tied = hits.scores[:, -1:], [torch.zeros(0, dtype=torch.int64)] * len(inputs)
    rows, count, most = (plain_M & edges[:, 0].isfinite()).nonzero()[:, 0], hits.places.shape[1], len(victim.passages)
    while len(rows):
        count = min(2 * count, most)
        deeper = victim.search(inputs[rows], count)
        same = deeper.scores == edges[rows]
        ends = ~same[:, -1] | (count == most)
        for place in ends.nonzero()[:, 0].tolist():
            tied[int(rows[place])] = deeper.places[place, same[place]]
        rows = rows[~ends]
    inside = hits.scores == edges
    cut = torch.tensor([len(each) for each in tied], dtype=torch.int64) > inside.sum(1)
    sure = torch.where(inside & cut[:, None], NOWHERE, hits.places)
    ties = torch.nn.utils.rnn.pad_sequence([each if broken else each[:0] for each, broken in zip(tied, cut.tolist(), strict=True)], True, NOWHERE)
    return Reads(sure=_marks(victim, sure), tied=_marks(victim, ties), places=torch.where(cut, inside.sum(1), 0))


def among(found_MD: Tensor, marks_MG: Tensor) -> Tensor:
    """Return (M, D) bool, whether each fingerprint is one of those of its question; 0 is none."""
    return (found_MD[:, :, None] == marks_MG[:, None]).any(2) & (found_MD != NOTHING)


def marks_of(texts: Tensor) -> Tensor:
    """Return (...,) int64, the fingerprints of texts (..., L), 0 for a text without words."""
    flat = texts.reshape(-1, texts.shape[-1])
    return torch.where((flat == 0).all(1), NOTHING, fingerprints(flat)).view(texts.shape[:-1])


def _marks(victim: Retrieving, places: Tensor) -> Tensor:
    """Return the fingerprints of the passages at these positions, 0 where there is none."""
    each, back = places.clamp_min(0).unique(return_inverse=True)
    return torch.where(places == NOWHERE, NOTHING, fingerprints(victim.passages.inputs[each])[back])
