"""The flat index of faiss, with ties broken by position.

Shape letters: M questions, N passages, E numbers of an embedding, k passages found.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.retrieve import Hits
from poisonbench.retrieval.search import Best, doubt, products, search

SPARE = 16  # passages that faiss is asked for beyond those that are wanted
MOST = 1024  # passages that faiss is asked for at most; beyond, the search in blocks is faster


class _Index(Protocol):
    def add(self, passages: NDArray[np.float32]) -> None: ...
    def search(self, questions: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...


class Flat:
    """Search by faiss's IndexFlatIP.

    faiss adds in float32, so equal passages can have different scores there, and which of them comes first changes with k. It is asked for more
    passages than are wanted, these are scored again, and a question is settled if the score of the last one is so far below the k-th best that no
    other passage can be among the best. Other questions, those with many copies, are answered by `search`.

    Args:
        passages: (N, E) float32.
    """

    def __init__(self, passages: Tensor) -> None:
        self.passages = passages
        self.index = cast("_Index", self.check()(passages.shape[1]))
        self.index.add(passages.contiguous().numpy())

    @staticmethod
    def check() -> type:
        """Return faiss's class.

        Raises:
            ConfigError: faiss is not installed.
        """
        try:
            kind: type = importlib.import_module("faiss").IndexFlatIP
        except ImportError as error:
            raise ConfigError('retriever.search=faiss needs faiss-cpu: pip install "poisonbench[text]"') from error
        return kind

    def search(self, questions: Tensor, count: int) -> Hits:
        """Return the best `count` passages for each question, as `poisonbench.retrieval.search.search` does."""
        asked = min(len(self.passages), count + SPARE)
        if not len(questions) or not asked or asked > MOST:
            return search(questions, self.passages, count)
        rough, found = (torch.from_numpy(values) for values in self.index.search(questions.contiguous().numpy(), asked))
        places = found.sort(dim=1).values  # by position, so that a stable sort by score breaks ties by it
        rows = torch.arange(len(questions)).repeat_interleave(asked)
        best = Best.none(len(questions), count)
        best.add(rows, places.flatten(), products(questions, self.passages, rows, places.flatten()))
        if asked < len(self.passages):
            unsure = (rough[:, -1] >= best.scores[:, -1] - doubt(questions, self.passages)).nonzero()[:, 0]
            again = search(questions[unsure], self.passages, count)
            best.places[unsure], best.scores[unsure] = again.places, again.scores
        return Hits(best.places, best.scores)
