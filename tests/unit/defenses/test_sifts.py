"""Filters after the search, worked by hand or against every possibility."""

import difflib
import itertools
import random

import pytest
import torch

from defenses.sift.cluster_top_k import ClusterTopK, halves, rouge
from defenses.sift.query_echo import QueryEcho, longest_run, shared
from defenses.sift.reliability_rag import ReliabilityRag, independent
from defenses.train.expand_k import ExpandK
from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.retrieve import Found, Sifted
from poisonbench.learn.retrieval import Retrieval
from poisonbench.retrieval.support import Support
from tests.unit.retrieval.shared_words import FORM, A, B, C, D, Shared, SharedWords, X, Y, Z, fitted


def texts(*rows: list[int], length: int = 6) -> torch.Tensor:
    return torch.tensor([[*row, *[0] * length][:length] for row in rows])


def found(question: list[int], *rows: list[int], answers: list[int] | None = None, features: torch.Tensor | None = None) -> Found:
    inputs = texts(*rows)
    return Found(
        question=texts(question)[0],
        passages=inputs,
        scores=torch.zeros(len(inputs)),
        form=FORM,
        encode=SharedWords(passages=inputs).features if features is None else lambda asked: features,
        alone=lambda: torch.tensor(answers),
    )


ECHO = QueryEcho(measure="ngrams", order=2, threshold=0.5, reach=4)


def test_the_share_of_the_questions_n_grams_decides():
    asked = found([A, B, C], [X, A, B, C], [A, B, X], [A, X, B, C], [B, A, C], [])
    grams = torch.tensor([[A, B], [B, C]])
    assert shared(grams, asked.passages).tolist() == [1, 0.5, 0.5, 0, 0]
    assert ECHO.keep(asked).tolist() == [False, False, False, True, True]
    assert QueryEcho(measure="ngrams", order=2, threshold=0.6, reach=4).keep(asked).tolist() == [False, True, True, True, True]


def test_a_question_with_fewer_words_is_one_n_gram_and_one_without_words_removes_nothing():
    three = QueryEcho(measure="ngrams", order=3, threshold=0.5, reach=4)
    assert three.keep(found([A, B], [A, B, X], [A, X, B])).tolist() == [False, True]
    assert three.keep(found([], [A, B, X], [])).tolist() == [True, True]
    assert ECHO.keep(found([Z], [])).tolist() == [True]


def test_the_longest_run_in_common_decides():
    asked = found([A, B, C, D], [X, B, C, D], [A, X, C, D], [A, B, A, B], [])
    assert QueryEcho(measure="run", order=1, threshold=0.75, reach=1).keep(asked).tolist() == [False, True, True, True]
    assert longest_run(torch.tensor([A, B, C, D]), asked.passages).tolist() == [3, 2, 2, 0]


def test_runs_are_those_of_a_library():
    dice = random.Random(100)
    for _ in range(50):
        question, passage = ([dice.randrange(2, 6) for _ in range(dice.randint(1, 6))] for _ in range(2))
        run = difflib.SequenceMatcher(None, question, passage, autojunk=False).find_longest_match().size
        assert longest_run(torch.tensor(question), texts(passage)).item() == run


def test_repeating_passages_are_replaced_by_deeper_ones():
    data = Dataset.of(texts([A, B, X], [A, B, X, Y], [A, Y], [B, Y], [D]), torch.zeros(5, dtype=torch.int64), num_classes=1, form=FORM)
    asked, answers = texts([A, B]), torch.tensor([[[0], [X], [Y]]])
    assert fitted(data).hits(asked, answers).places.tolist() == [[0, 1]]
    assert fitted(data, sifts=(ECHO,)).hits(asked, answers).places.tolist() == [[2, 3]]


def common(one: list[int], other: list[int]) -> int:
    """The longest common subsequence, by trying all subsequences."""
    within = [{some for size in range(len(text) + 1) for some in itertools.combinations(text, size)} for text in (one, other)]
    return max(map(len, within[0] & within[1]))


def test_rouge_is_twice_the_longest_common_subsequence_over_both_lengths():
    dice = random.Random(100)
    rows = [[dice.randrange(2, 5) for _ in range(dice.randint(0, 6))] for _ in range(8)]
    scores = rouge(texts(*rows))
    for one, other in itertools.combinations(range(8), 2):
        expected = 2 * common(rows[one], rows[other]) / max(1, len(rows[one]) + len(rows[other]))
        assert scores[one, other] == scores[other, one] == expected
    assert (scores.diagonal() == 0).all()


TIGHT = ClusterTopK(tight=0.88, overlap=0.25, reach=1)
ALIKE, OTHER = [A, B, C, X], [D, Y, Z]


def test_a_tight_cluster_is_removed_and_a_loose_one_stays():
    turned = torch.nn.functional.normalize(torch.tensor([[1, 0.1, 0, 0], [1, 0, 0, 0.1], [0, 1, 0.4, 0], [0, 1, 0, 1.2], [1, 0, 0.1, 0]]))
    asked = found([A], ALIKE, ALIKE, [D, A, Y], [Z, D], ALIKE, features=turned)
    assert halves(turned)[[0, 1, 4]].unique().numel() == halves(turned)[[2, 3]].unique().numel() == 1
    assert ClusterTopK(tight=0.88, overlap=0.45, reach=1).keep(asked).tolist() == [False, False, True, True, False]  # ROUGE-L of rows 2 and 3: 2/5
    assert TIGHT.keep(asked).tolist() == [False] * 5  # they are copies too
    assert ClusterTopK(tight=1.0, overlap=0.45, reach=1).keep(asked).tolist() == [False, False, True, True, False]  # loose, but copies


def test_without_passages_that_are_alike_nothing_is_removed():
    assert TIGHT.keep(found([A], [A, B], [C, D], [X, Y])).all()
    assert TIGHT.keep(found([A], [A, B])).tolist() == [True]


def test_passages_that_the_retriever_cannot_tell_apart_are_one_cluster():
    assert TIGHT.keep(found([A], ALIKE, ALIKE, ALIKE)).tolist() == [False] * 3
    assert TIGHT.keep(found([A], ALIKE, ALIKE)).tolist() == [False] * 2
    nothing = torch.zeros(2, 3)
    assert TIGHT.keep(found([A], ALIKE, ALIKE, features=nothing)).tolist() == [True] * 2


def test_one_passage_beside_a_cluster():
    def kept(*rows: list[float]) -> list[bool]:
        features = torch.nn.functional.normalize(torch.tensor(rows))
        return TIGHT.keep(found([A], *[ALIKE] * len(rows), features=features)).tolist()

    assert kept([1, 0.1, 0], [1, 0, 0.1], [1, 0.1, 0.1], [-1, 3, 3]) == [False, False, False, True]  # the others are tight
    assert kept([1, 0.6, 0], [1, 0, 0.6], [1, 0.9, 0.9], [-1, -3, -3]) == [True, True, True, False]  # they are not


def test_two_clusters_of_one_passage_are_kept():
    assert TIGHT.keep(found([A], [A, B, C], [A, B, D])).tolist() == [True, True]


@pytest.mark.parametrize("edges", [0.1, 0.3, 0.6, 0.9])
def test_the_largest_independent_set_is_that_of_trying_all(edges):
    dice = random.Random(100)
    for _ in range(30):
        count = dice.randint(0, 8)
        joined = {pair for pair in itertools.combinations(range(count), 2) if dice.random() < edges}
        bits = [sum(1 << other for other in range(count) if (min(one, other), max(one, other)) in joined) for one in range(count)]
        sets = [
            chosen for size in range(count + 1) for chosen in itertools.combinations(range(count), size) if not joined & {*itertools.combinations(chosen, 2)}
        ]
        largest = max(map(len, sets))
        best = min(chosen for chosen in sets if len(chosen) == largest)
        assert independent(bits) == sum(1 << place for place in best)


def test_twenty_passages_are_searched_at_once():
    ring = [1 << (place + 1) % 20 | 1 << (place - 1) % 20 for place in range(20)]
    assert independent(ring) == sum(1 << place for place in range(0, 20, 2))


RELIABLE = ReliabilityRag(reach=1)


def test_passages_that_contradict_the_largest_set_are_removed():
    rows = [[A]] * 5
    assert RELIABLE.keep(found([A], *rows, answers=[2, 1, 1, 0, 1])).tolist() == [False, True, True, True, True]
    assert RELIABLE.keep(found([A], *rows, answers=[2, 1, 1, 0, 2])).tolist() == [True, False, False, True, True]  # a tie: rank 0 is better
    assert RELIABLE.keep(found([A], *rows, answers=[0, 0, 3, 0, 0])).all()


def test_with_these_edges_the_set_is_the_answer_of_most_passages():
    dice = random.Random(100)
    for _ in range(50):
        answers = [dice.randrange(4) for _ in range(dice.randint(1, 20))]
        said = [answer for answer in answers if answer]
        most = max(said, key=lambda answer: (said.count(answer), -said.index(answer)), default=0)
        kept = RELIABLE.keep(found([A], *[[A]] * len(answers), answers=answers))
        assert kept.tolist() == [answer in (0, most) for answer in answers]


def test_more_passages_than_the_exact_search_is_meant_for_are_refused_before_the_run():
    data = Dataset.of(texts([A]), torch.zeros(1, dtype=torch.int64), num_classes=1, form=FORM)
    learner = Sifted(sift=ReliabilityRag(reach=3))(Retrieval(retriever=Shared(), reader=Support(), top=7))
    with pytest.raises(ConfigError, match=r"at most 20 passages exactly, and 21 are asked for; lower defense\.train\.sift\.reach"):
        learner.check(data, honest(data))
    learner.with_top(6).check(data, honest(data))
    assert ReliabilityRag(reach=3).depth(6) == 18


def test_more_passages_are_read():
    learner = Retrieval(retriever=Shared(), reader=Support(), top=5)
    assert ExpandK(top=50)(learner) == learner.with_top(50)
    with pytest.raises(Incompatible, match="ExpandK filters or reads passages, and Shared searches none"):
        ExpandK(top=50)(Shared())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (QueryEcho, {"measure": "run", "order": 0, "threshold": 0.5, "reach": 1}),
        (QueryEcho, {"measure": "run", "order": 1, "threshold": 0.0, "reach": 1}),
        (QueryEcho, {"measure": "run", "order": 1, "threshold": 0.5, "reach": 0}),
        (ClusterTopK, {"tight": 1.1, "overlap": 0.25, "reach": 1}),
        (ClusterTopK, {"tight": 0.88, "overlap": -0.1, "reach": 1}),
        (ReliabilityRag, {"reach": 0}),
        (ExpandK, {"top": 0}),
    ],
)
def test_numbers_out_of_range_are_refused(kind, fields):
    with pytest.raises(ConfigError, match=r"defense\.train"):
        kind(**fields)
