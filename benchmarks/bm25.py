"""BM25 as a retriever of ours, which uses bm25s, against rank-bm25: questions, and the time to build the index."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._options import Options
from benchmarks._timing import in_turns, seconds
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens
from poisonbench.report.benchmarks import Comparison
from poisonbench.retrieval.bm25 import BM25, BM25Index

K1, B, TOP = 1.5, 0.75, 10
WORDS, LENGTH = 20_000, 30


class _Peer(Protocol):
    def get_scores(self, words: Sequence[int]) -> NDArray[np.float64]: ...


def measure(options: Options, *, passages: int = 100_000, questions: int = 1000, asked: int = 20, repeats: int = 3) -> Iterator[Comparison]:
    """Yield the time of a question, of which the peer answers only a few (`asked`), then the time of the index."""
    peer, rows = _peer(), generated(passages, LENGTH, 100)
    told, texts = generated(questions, 8, 101).inputs, [[word for word in row if word] for row in rows.inputs.tolist()]
    few = [[word for word in row if word] for row in told[:asked].tolist()]
    recipe = BM25(k1=K1, b=B)
    index, other = recipe.index(rows), peer(texts, k1=K1, b=B)
    index.search(told[:1], TOP)  # the library's index is built for the first question
    costs = in_turns(lambda: index.search(told, TOP), lambda: [best(other, words) for words in few], repeats=repeats)
    yield Comparison(
        work=f"a question of 1 to 8 words among {passages} passages of 1 to {LENGTH} words, best {TOP}",
        ours="retriever=bm25",
        alternative="rank_bm25.BM25Okapi and a partial sort",
        unit="ms",
        ours_cost=tuple(1000 * cost / questions for cost in costs.ours),
        alternative_cost=tuple(1000 * cost / asked for cost in costs.alternative),
        facts={"questions_per_second_ours": questions / min(costs.ours), "questions_per_second_alternative": asked / min(costs.alternative)},
    )
    ours, alternative = seconds(lambda: _built(recipe, rows)), seconds(lambda: peer(texts, k1=K1, b=B))
    yield Comparison(
        work=f"the index of {passages} passages of 1 to {LENGTH} words",
        ours="retriever=bm25",
        alternative="rank_bm25.BM25Okapi",
        unit="s",
        ours_cost=(ours,),
        alternative_cost=(alternative,),
    )


def _built(recipe: BM25, rows: Dataset) -> object:
    index: BM25Index = recipe.index(rows)
    return index.library


def _peer() -> type:
    try:
        kind: type = importlib.import_module("rank_bm25").BM25Okapi
    except ImportError as error:
        raise ConfigError("benchmark bm25: rank_bm25 is not installed; pip install -e '.[peers]'") from error
    return kind


def best(peer: _Peer, words: Sequence[int]) -> NDArray[np.int64]:
    """Return the places of the peer's best passages."""
    scores = peer.get_scores(words)
    places = np.argpartition(-scores, TOP)[:TOP]
    return places[np.argsort(-scores[places])]


def generated(rows: int, length: int, seed: int) -> Dataset:
    """Return rows of random words, of which few are frequent and most are rare, as in a language (a Zipf distribution)."""
    generator = Key.root(seed).torch()
    share = 1 / torch.arange(1, WORDS + 1, dtype=torch.float64)
    drawn = torch.multinomial(share, rows * length, replacement=True, generator=generator).view(rows, length) + 2
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    inputs = torch.where(torch.arange(length) < lengths, drawn, 0)
    form = Tokens(vocabulary=("", "<unk>", *(f"w{place}" for place in range(WORDS))))
    return Dataset.of(inputs, torch.zeros(rows, dtype=torch.int64), num_classes=1, form=form)
