"""What retrievers that compare words have in common.

Shape letters: N passages, V words, k passages found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.retrieve import Hits
from poisonbench.forms.tokens import SPECIAL, Tokens
from poisonbench.retrieval.search import Best, top

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NEEDS_WORDS = "retriever"  # the slot, for errors


class Scored(NamedTuple):
    """Passages with their scores for one question.

    Args:
        places: (P,) int64.
        scores: (P,) float32.
    """

    places: NDArray[np.int64]
    scores: NDArray[np.float32]


def counts(form: Tokens, inputs: Tensor) -> csr_matrix:
    """Return (N, V) float64, how often each word occurs in each row; words that are not in the vocabulary (<unk>) count as none.

    Two rows with <unk> have most probably different words there.
    """
    from scipy.sparse import csr_matrix

    table = form.table(inputs)
    (rows, words), values = table.indices().numpy(), table.values().double().numpy()
    kept = words >= len(SPECIAL)
    return csr_matrix((values[kept], (rows[kept], words[kept])), shape=tuple(table.shape))


def hits(found: Iterable[Scored], questions: int, count: int) -> Hits:
    """Return the best `count` passages with a score above 0 for each question; of equal scores, the one at the smaller position comes first."""
    best = Best.none(questions, count)
    for row, (places, scores) in enumerate(found):
        kept = scores > 0
        places, scores = top(scores[kept], places[kept], count)
        best.places[row, : len(places)], best.scores[row, : len(scores)] = torch.from_numpy(places), torch.from_numpy(scores)
    return Hits(best.places, best.scores)
