import math
import sys

import numpy as np
import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.retrieval.bm25 import BM25
from tests.unit.retrieval.rows import asked, generated, passages

pytest.importorskip("bm25s")
RECIPE = BM25(k1=1.5, b=0.75)
ROWS = passages("a b", "a a c", "d", "", words="e")


def test_scores_are_those_of_a_hand_worked_case():
    hits = RECIPE.index(ROWS).search(asked(ROWS.form, "a c").inputs, 3)
    mean = 6 / 4

    def score(rows: int, times: int, length: int) -> float:
        return math.log(1 + (4 - rows + 0.5) / (rows + 0.5)) * times / (times + 1.5 * (0.25 + 0.75 * length / mean))

    assert hits.places.tolist() == [[1, 0, -1]]
    torch.testing.assert_close(hits.scores, torch.tensor([[score(2, 2, 3) + score(1, 1, 3), score(2, 1, 2), -torch.inf]]))


def test_a_question_without_a_known_word_finds_nothing():
    """bm25s itself returns the last passages, with score 0, so that poison that is appended would count as found."""
    index = RECIPE.index(ROWS)
    assert index.search(asked(ROWS.form, "e", "zzz", "").inputs, 2).places.tolist() == [[-1, -1]] * 3
    assert index.library.retrieve([[ROWS.form.places["e"]]], k=2, show_progress=False).documents.tolist() == [[3, 2]]


def test_passages_without_a_word_are_an_index_that_finds_nothing():
    for rows in (asked(ROWS.form, "", "zzz"), ROWS.take(torch.tensor([], dtype=torch.int64))):
        index = RECIPE.index(rows)
        assert index.search(ROWS.inputs, 1).places.tolist() == [[-1]] * 4
        assert not index.features(ROWS.inputs).any()


def test_a_repeated_word_saturates():
    rows = passages("a", " ".join("a" * 200), "b", length=200)
    scores = BM25(k1=1.5, b=0.0).index(rows).search(rows.inputs[:1], 2).scores[0]
    assert scores[0] / scores[1] == pytest.approx((200 / (200 + 1.5)) / (1 / (1 + 1.5)), rel=1e-5)


def test_a_search_finds_what_a_full_sort_of_all_scores_finds():
    rows = generated(60)
    rows = rows.append(rows).append(generated(60, seed=101))
    index, questions = RECIPE.index(rows), generated(30, length=4, seed=102).inputs
    for count in (1, 5, 50):
        hits = index.search(questions, count)
        for question, places, scores in zip(questions.tolist(), hits.places.tolist(), hits.scores.tolist(), strict=True):
            whole = index.library.get_scores_from_ids([word for word in question if word])
            best = [place for place in np.argsort(-whole, kind="stable")[:count].tolist() if whole[place] > 0]
            assert places == best + [-1] * (count - len(best))
            assert scores[: len(best)] == whole[best].tolist()


def test_features_are_the_weights_that_the_library_gives_to_a_passage():
    rows = generated(50)
    index = RECIPE.index(rows)
    library = index.library.scores
    weights = torch.zeros(50, len(rows.form.vocabulary))
    for word, (start, end) in enumerate(zip(library["indptr"][:-1], library["indptr"][1:], strict=True)):
        weights[torch.from_numpy(library["indices"][start:end]).long(), word] = torch.from_numpy(library["data"][start:end])
    torch.testing.assert_close(index.features(rows.inputs), torch.nn.functional.normalize(weights))


def test_every_passage_can_change_the_score_of_another_one():
    assert BM25.LOOKS_AT == "all rows"
    question = asked(ROWS.form, "a").inputs
    more = ROWS.append(asked(ROWS.form, "a d d d d"))
    assert RECIPE.index(ROWS).search(question, 1).scores[0, 0] != RECIPE.index(more).search(question, 1).scores[0, 0]


@pytest.mark.parametrize(("k1", "b"), [(-0.1, 0.5), (1.5, 1.1), (1.5, -0.1), (math.inf, 0.5), (math.nan, 0.5)])
def test_numbers_that_define_no_score_are_refused(k1, b):
    with pytest.raises(ConfigError, match="give k1 as 0 or more"):
        BM25(k1=k1, b=b)


def test_a_missing_package_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r'pip install "poisonbench\[text\]"'):
        RECIPE.check(ROWS)
