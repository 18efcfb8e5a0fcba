import dataclasses

import pytest
import torch

from attacks.retrieval.asked import answering, asked, clusters, encoder, padded, silent
from poisonbench.core.errors import ConfigError, Incompatible
from tests.unit.attacks.retrieval.worlds import RNG, A, B, C, D, P, Q, Shared, X, Y, learned, passages, public, row

INDEX = passages((A, X))
PUBLIC = public(((A, P, X), (A, B), (X,)), ((X, Y), (C,), (Y,)), ((D, P), (A, B), ()), ((Q,), (), ()))
KNOWN = learned(INDEX, INDEX, 1, PUBLIC)


def test_past_questions_are_counted_once_and_rows_without_one_are_left_out():
    assert asked(KNOWN).tolist() == [row(A, B), row(C)]


def test_the_words_of_answers_are_known():
    assert answering(KNOWN).tolist() == [X, Y]
    assert answering(dataclasses.replace(KNOWN, public=INDEX)).tolist() == []


def test_a_text_without_answers_is_repeated_and_one_that_is_nothing_else_is_left_out():
    assert silent(PUBLIC, torch.tensor([X, Y]), 5).tolist() == [[A, P, A, P, A], [D, P, D, P, D], [Q, Q, Q, Q, Q]]
    assert silent(PUBLIC, torch.tensor([X]), 1).tolist() == [[A], [Y], [D], [Q]]


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        (PUBLIC.take(torch.arange(0)), ConfigError, r"there are none; set task\.public"),
        (INDEX, Incompatible, "task=facts"),
        (PUBLIC.take(torch.tensor([3])), Incompatible, "have none at any share; use task=facts"),
    ],
)
def test_a_task_without_past_questions_is_refused(rows, error, match):
    with pytest.raises(error, match=match):
        asked(dataclasses.replace(KNOWN, public=rows))


def test_a_surrogate_without_gradients_is_refused():
    with pytest.raises(Incompatible, match="use retriever=tfidf or wordllama"):
        encoder(learned(INDEX, INDEX, 1, PUBLIC, Shared()))


def test_groups_that_lie_apart_are_the_clusters_and_there_are_no_more_than_different_points():
    points = torch.tensor([[0.0, 0], [9, 9], [0, 1], [9, 8], [0, 0]])
    assert sorted(part.tolist() for part in clusters(points, 2, RNG)) == [[0, 2, 4], [1, 3]]
    assert sorted(part.tolist() for part in clusters(points, 7, RNG)) == [[0, 4], [1], [2], [3]]
    assert clusters(points, 0, RNG) == []


def test_a_passage_longer_than_a_row_is_refused():
    assert padded(torch.tensor([[A, B]]), 4).tolist() == [[A, B, 0, 0]]
    with pytest.raises(ConfigError, match=r"has 2 words and a row of the task 1 places; raise task\.room by 1"):
        padded(torch.tensor([[A, B]]), 1)
