"""A retriever whose search can be worked out by hand: it counts the words that question and passage share."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from poisonbench.core.combine import honest
from poisonbench.core.retrieve import NOWHERE, Hits
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import SPECIAL, Tokens
from poisonbench.learn.retrieval import Retrieval
from poisonbench.retrieval.support import Support

KEY = Key.root(100)
FORM = Tokens(vocabulary=(*SPECIAL, "a", "b", "c", "d", "x", "y", "z"))
A, B, C, D, X, Y, Z = range(2, 9)


@dataclass(frozen=True, eq=False, kw_only=True)
class SharedWords:
    passages: torch.Tensor
    module: ClassVar[None] = None

    def search(self, questions, count):
        shared = self._words(questions) @ self._words(self.passages).T
        order = shared.argsort(dim=1, descending=True, stable=True)[:, :count]
        found = shared.gather(1, order)
        missing = (0, count - order.shape[1])
        places, scores = torch.where(found > 0, order, NOWHERE), torch.where(found > 0, found, -torch.inf)
        return Hits(torch.nn.functional.pad(places, missing, value=NOWHERE), torch.nn.functional.pad(scores, missing, value=-torch.inf))

    def features(self, inputs):
        return torch.nn.functional.normalize(self._words(inputs))

    def state(self):
        return {"words": self._words(self.passages)}

    def _words(self, inputs):
        return torch.zeros(len(inputs), len(FORM.vocabulary)).scatter_(1, inputs, 1.0).index_fill_(1, torch.tensor([0]), 0)


@dataclass(frozen=True, kw_only=True)
class Shared:
    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[str] = "each row alone"

    def with_public(self, public):
        return self

    def check(self, passages):
        pass

    def index(self, passages, state=None):
        assert state is None or state["words"].shape[0] == len(passages)
        return SharedWords(passages=passages.inputs)


def fitted(data, combine=None, **changes):
    learner = Retrieval(retriever=Shared(), reader=Support(), **{"top": 2, **changes})
    return learner.fit(data, combine or honest(data), KEY)
