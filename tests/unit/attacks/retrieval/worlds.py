"""A retriever that can be worked out by hand: it counts the different words that question and passage share."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from poisonbench.core.ask import Candidates
from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.form import IDENTITY, Column
from poisonbench.core.retrieve import NOWHERE, Hits, fingerprints
from poisonbench.core.rng import Key
from poisonbench.core.threat import Budget, Known
from poisonbench.forms.tokens import SPECIAL, Tokens
from poisonbench.learn.retrieval import Retrieval
from poisonbench.retrieval.support import Support

RNG = Key.root(100)
WORDS = tuple("abcdefgxyzpqr")
STATED = """many outdated sources state that the answer is . the latest data confirm that the correct answer is .
    older records name , but they have been corrected since and recent sources agree on ."""
FORM = Tokens(vocabulary=(*SPECIAL, *WORDS, *dict.fromkeys(STATED.split())))
A, B, C, D, E, F, G, X, Y, Z, P, Q, R = range(2, 15)


def row(*words, length=8):
    return [*words] + [0] * (length - len(words))


def passages(*rows, length=8):
    inputs = torch.tensor([row(*words, length=length) for words in rows])
    return Dataset.of(inputs, torch.zeros(len(rows), dtype=torch.int64), num_classes=1, form=FORM)


def questions(*asked, length=8):
    """Questions of (words, place of the right answer, wished place, gold passages, claims); the answers are none of them, x, y and z."""
    inputs = torch.tensor([row(*words, length=length) for words, *_ in asked])
    data = Dataset.of(inputs, torch.tensor([right for _, right, *_ in asked]), num_classes=4, form=FORM)
    gold, claims = torch.zeros(len(asked), 3, dtype=torch.int64), torch.zeros(len(asked), 3, length, dtype=torch.int64)
    for place, (_, _, _, golds, stated) in enumerate(asked):
        for number, words in enumerate(golds):
            gold[place, number] = fingerprints(torch.tensor([words]))[0]
        for number, words in enumerate(stated):
            claims[place, number] = torch.tensor(row(*words, length=length))
    for name, values in (("gold", gold), ("wish", torch.tensor([wish for _, _, wish, *_ in asked])), ("claims", claims)):
        data = data.with_column(name, values, IDENTITY)
    ask = Candidates(table=torch.tensor([[0], [X], [Y], [Z]]), of=torch.arange(4).expand(len(asked), 4))
    return Dataset(**{**vars(data), "ask": ask})


@dataclass(frozen=True, eq=False, kw_only=True)
class SharedWords:
    passages: torch.Tensor
    module: ClassVar[nn.Module | None] = None

    def search(self, questions, count):
        shared = words(questions) @ words(self.passages).T
        order = shared.argsort(dim=1, descending=True, stable=True)[:, :count]
        found = shared.gather(1, order)
        return Hits(torch.where(found > 0, order, NOWHERE), torch.where(found > 0, found, -torch.inf))

    def features(self, inputs):
        return torch.nn.functional.normalize(words(inputs))

    def state(self):
        return {}


class Bag(nn.Module):
    """An encoder: the mean of random word vectors, divided by its length."""

    def __init__(self):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(len(FORM.vocabulary), 6, generator=RNG.child("bag").torch()))
        self.known = torch.ones(len(FORM.vocabulary), dtype=torch.bool)
        with torch.no_grad():
            self.vectors[0] = 0

    @property
    def table(self):
        return self.vectors

    def lift(self, inputs):
        return self.vectors[inputs]

    def features(self, inputs):
        lifted = inputs if inputs.is_floating_point() else self.lift(inputs)
        return torch.nn.functional.normalize(lifted.sum(1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoded(SharedWords):
    module: ClassVar[nn.Module | None] = Bag()


def words(inputs):
    return torch.zeros(len(inputs), len(FORM.vocabulary)).scatter_(1, inputs, 1.0).index_fill_(1, torch.tensor([0]), 0)


@dataclass(frozen=True, kw_only=True)
class Shared:
    VERSION: ClassVar[int] = 1

    def with_public(self, public):
        return self

    def check(self, passages):
        pass

    def index(self, passages, state=None):
        return SharedWords(passages=passages.inputs)


@dataclass(frozen=True, kw_only=True)
class Dense(Shared):
    def index(self, passages, state=None):
        return Encoded(passages=passages.inputs)


def victim(index, top=2, retriever=Shared(), **changes):
    return Retrieval(retriever=retriever, reader=Support(), top=top, **changes).fit(index, honest(index), RNG)


def known(index, targets, count, **changes):
    budget = Budget(count=count, inject=True)
    writable = torch.ones(len(index), dtype=torch.bool)
    fit = changes.pop("fit", lambda rows, draw=0: victim(rows))
    return Known(rows=index, writable=writable, budget=budget, targets=targets, public=index.take(torch.arange(0)), fit=fit, tune=None, **changes)


class Counts(nn.Module):
    """An encoder that can be worked out by hand: how often each word occurs, divided by the length of this vector."""

    def __init__(self):
        super().__init__()
        self.known = torch.ones(len(FORM.vocabulary), dtype=torch.bool)

    @property
    def table(self):
        return torch.eye(len(FORM.vocabulary)).index_fill_(0, torch.tensor([0]), 0)

    def lift(self, inputs):
        return self.table[inputs]

    def features(self, inputs):
        lifted = inputs if inputs.is_floating_point() else self.lift(inputs)
        return torch.nn.functional.normalize(lifted.sum(1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Tallied(SharedWords):
    module: ClassVar[nn.Module | None] = Counts()


@dataclass(frozen=True, kw_only=True)
class Counted(Shared):
    def index(self, passages, state=None):
        return Tallied(passages=passages.inputs)


def public(*rows, length=8):
    """Public passages of (words, past question, answer to it)."""
    data = passages(*(words for words, _, _ in rows), length=length)
    for place, name in ((1, "question"), (2, "answer")):
        data = data.with_column(name, torch.tensor([row(*each[place], length=length) for each in rows]), Column(form=FORM, role="sealed"))
    return data


def learned(index, targets, count, rows, retriever=Counted()):
    """What an attacker knows who has these public passages and an encoder."""
    return dataclasses.replace(known(index, targets, count, fit=lambda rows, draw=0: victim(rows, retriever=retriever)), public=rows)
