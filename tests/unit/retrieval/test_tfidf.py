import math

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import key
from poisonbench.retrieval.tfidf import Tfidf, TfidfCorpus
from tests.unit.retrieval.rows import asked, generated, passages

ROWS = passages("a b", "a a c", "d", "", words="e f")
PUBLIC = asked(ROWS.form, "a e", "a b")


def weight(rows: int, having: int) -> float:
    return math.log((1 + rows) / (1 + having)) + 1


def test_scores_are_the_cosines_of_a_hand_worked_case():
    index = Tfidf().with_public(PUBLIC).index(ROWS)
    a, b, c = weight(2, 2), weight(2, 1), weight(2, 0)
    hits = index.search(asked(ROWS.form, "a b").inputs, 4)
    assert hits.places.tolist() == [[0, 1, -1, -1]]
    second = 2 * a * a / (math.hypot(a, b) * math.hypot(2 * a, c))
    torch.testing.assert_close(hits.scores, torch.tensor([[1.0, second, -torch.inf, -torch.inf]]))


def test_weights_of_the_index_change_with_its_passages_and_those_of_the_public_rows_do_not():
    question, more = asked(ROWS.form, "a c").inputs, ROWS.append(asked(ROWS.form, "c", "c", "c"))
    own = Tfidf().with_public(PUBLIC)
    for recipe, alike in ((own, True), (TfidfCorpus(), False)):
        before, after = recipe.index(ROWS).search(question, 9), recipe.index(more).search(question, 9)
        scores = dict(zip(after.places[0].tolist(), after.scores[0].tolist(), strict=True))
        assert (scores[1] == before.scores[0, 0].item()) == alike
    assert (Tfidf.LOOKS_AT, TfidfCorpus.LOOKS_AT) == ("each row alone", "all rows")


@pytest.mark.parametrize("recipe", [TfidfCorpus(), Tfidf().with_public(generated(40, seed=101))])
def test_a_search_finds_what_a_full_sort_of_the_features_finds(recipe):
    rows, questions = generated(300), generated(40, length=4, seed=102).inputs
    index = recipe.index(rows)
    scores = index.features(questions) @ index.features(rows.inputs).T
    hits = index.search(questions, 25)
    torch.testing.assert_close(hits.scores.clamp_min(0), scores.sort(dim=1, descending=True).values[:, :25])
    found = hits.places >= 0
    assert torch.equal(found, hits.scores > 0)
    torch.testing.assert_close(hits.scores[found], scores.gather(1, hits.places.clamp_min(0))[found])


def test_copies_of_a_passage_are_found_in_their_order_however_many_are_asked_for():
    rows = generated(40)
    rows = rows.append(rows).append(rows)
    index = TfidfCorpus().index(rows)
    whole = index.search(rows.inputs[:40], 120)
    for count in (1, 2, 3, 7):
        assert torch.equal(index.search(rows.inputs[:40], count).places, whole.places[:, :count])
    tied = whole.scores[:, :-1] == whole.scores[:, 1:]
    assert (whole.places[:, 1:] > whole.places[:, :-1])[tied & (whole.places[:, 1:] >= 0)].all()


def test_unknown_words_match_nothing():
    index = TfidfCorpus().index(asked(ROWS.form, "zzz a", "zzz"))
    assert index.search(asked(ROWS.form, "yyy").inputs, 2).places.tolist() == [[-1, -1]]
    assert not index.features(asked(ROWS.form, "yyy", "").inputs).any()


def test_an_index_without_passages_finds_nothing():
    index = TfidfCorpus().index(ROWS.take(torch.tensor([], dtype=torch.int64)))
    assert index.search(ROWS.inputs[:1], 2).places.tolist() == [[-1, -1]]


def test_the_module_gives_the_features_of_the_index_and_of_lifted_words():
    index = Tfidf().with_public(PUBLIC).index(ROWS)
    module = index.module
    for given in (ROWS.inputs, module.lift(ROWS.inputs)):
        torch.testing.assert_close(module.features(given), index.features(ROWS.inputs))
    torch.testing.assert_close(module.encoded(ROWS.inputs), index.features(ROWS.inputs))
    torch.testing.assert_close(module.table[ROWS.inputs], module.lift(ROWS.inputs))
    assert module.known.tolist() == [False, False, True, True, True, True, True, True]


def test_the_gradient_of_the_module_is_that_of_finite_differences():
    module = Tfidf().with_public(PUBLIC).index(ROWS).module.double()
    lifted = module.lift(ROWS.inputs[:2, :3]).requires_grad_()
    assert torch.autograd.gradcheck(module.features, (lifted,))


def test_public_weights_are_part_of_the_key():
    assert key(Tfidf().with_public(PUBLIC)) != key(Tfidf().with_public(ROWS))


def test_without_public_rows_it_says_what_to_set():
    empty = PUBLIC.take(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"set task\.public=0\.2, or retriever=tfidf_corpus"):
        Tfidf().with_public(empty).check(ROWS)
    Tfidf().with_public(PUBLIC).check(ROWS)
    TfidfCorpus().with_public(empty).check(ROWS)
