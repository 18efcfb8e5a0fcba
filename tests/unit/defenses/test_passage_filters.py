"""Filters of passages, with features that can be counted by hand: unit vectors of the words of a text."""

import math

import pytest
import torch

from defenses.sanitize import memsad, near_duplicate
from defenses.sanitize.hubness import Hubness, central
from defenses.sanitize.memsad import MemSad
from defenses.sanitize.near_duplicate import NearDuplicate
from defenses.sanitize.passages import past
from defenses.sanitize.perplexity import Perplexity, held_out
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Column
from poisonbench.core.rng import Key
from poisonbench.forms.ngram import Ngrams
from tests.unit.retrieval.shared_words import FORM, A, B, C, D, X, Y, Z, fitted

NOBODY = torch.zeros(0, dtype=torch.bool)


def passages(*rows: list[int]) -> Dataset:
    inputs = torch.tensor([[*row, 0, 0, 0, 0][:4] for row in rows])
    return Dataset.of(inputs, torch.zeros(len(rows), dtype=torch.int64), num_classes=1, form=FORM)


def asking(data: Dataset, *questions: list[int]) -> Dataset:
    return data.with_column("question", passages(*questions).inputs, Column(form=FORM, role="sealed"))


def judged(sanitize, data: Dataset, trusted: Dataset):
    return sanitize.judge(data, Means(trusted=trusted, fit=lambda rows, draw=0: fitted(rows), tune=None, truth=NOBODY), Key.root(100))


TRUSTED = passages([A, B], [C, D])
ALIKE = passages([A, B, C], [X, Y], [A, B, C, D], [X, Z], [Y, X], [D])  # cosines: rows 0 and 2 sqrt(3/4), rows 1 and 4 equal, rows 1 and 3 1/2


def test_passages_with_a_neighbour_above_the_threshold_are_dropped():
    told = judged(NearDuplicate(threshold=0.85, keep="none"), ALIKE, TRUSTED)
    assert told.keep.tolist() == [False, False, False, True, False, True]
    torch.testing.assert_close(told.suspicion, torch.tensor([0.75**0.5, 1, 0.75**0.5, 0.5, 1, 0.5]))
    assert judged(NearDuplicate(threshold=1.0, keep="none"), ALIKE, TRUSTED).keep.tolist() == [True, False, True, True, False, True]


def test_the_first_of_each_group_may_stay_and_groups_are_connected_by_others():
    assert judged(NearDuplicate(threshold=0.85, keep="first"), ALIKE, TRUSTED).keep.tolist() == [True, True, False, True, False, True]
    chain = passages([A, B], [Z], [C, D], [B, C])  # rows 0 and 2 share no word; row 3 shares one with each
    assert judged(NearDuplicate(threshold=0.5, keep="first"), chain, TRUSTED).keep.tolist() == [True, True, False, False]


@pytest.mark.parametrize("keep", ["none", "first"])
def test_small_blocks_give_the_same_verdict(monkeypatch, keep):
    generator = Key.root(100).torch()
    data = passages(*torch.randint(2, 9, (60, 4), generator=generator).tolist())
    sanitize = NearDuplicate(threshold=1.0, keep=keep)
    whole = judged(sanitize, data, TRUSTED)
    monkeypatch.setattr(near_duplicate, "CELLS", 7 * 60)
    parts = judged(sanitize, data, TRUSTED)
    assert torch.equal(parts.keep, whole.keep)
    torch.testing.assert_close(parts.suspicion, whole.suspicion)
    assert 0 < whole.keep.sum() < 60


def test_a_single_passage_has_no_duplicate():
    told = judged(NearDuplicate(threshold=0.85, keep="none"), passages([A]), TRUSTED)
    assert told.keep.tolist() == [True]
    assert told.suspicion.isfinite().all()


def test_a_text_that_no_trusted_row_resembles_is_dropped_for_its_perplexity():
    trusted = passages(*[[A, B, C, D], [A, B, X, D]] * 15)
    data = passages([A, B, C, D], [D, Z, Y, A], [A, B, X, D])
    told = judged(Perplexity(order=2, quantile=1.0), data, trusted)
    assert told.keep.tolist() == [True, False, True]
    model = Ngrams.of(trusted.inputs, 2, len(FORM.vocabulary))
    torch.testing.assert_close(told.suspicion, model.perplexity(data.inputs).float())


def test_the_threshold_comes_from_trusted_rows_that_the_model_has_not_seen_nor_their_neighbours():
    trusted = passages(*[[A, B, C, D]] * 19, [X, Y, Z, Z])  # the last row is the only one of its kind
    own = held_out(trusted.inputs, 2, len(FORM.vocabulary))
    seen = Ngrams.of(trusted.inputs, 2, len(FORM.vocabulary)).perplexity(trusted.inputs)
    assert own.argmax() == 19
    assert own[19] > 1.5 * seen[19]
    model = Ngrams.of(trusted.inputs[:18], 2, len(FORM.vocabulary))
    assert math.isclose(own[19], model.perplexity(trusted.inputs[19:])[0])
    rare = passages([X, Y, Z, Z])
    assert judged(Perplexity(order=2, quantile=1.0), rare, trusted).keep.item()
    assert not judged(Perplexity(order=2, quantile=0.9), rare, trusted).keep.item()


def test_perplexity_needs_trusted_rows_and_short_n_grams():
    with pytest.raises(ConfigError, match="from 2 trusted rows"):
        Perplexity(order=2, quantile=0.9).check_trusted(TRUSTED)
    with pytest.raises(ConfigError, match=r"defense\.sanitize\.order=40"):
        Perplexity(order=40, quantile=0.9).check_trusted(TRUSTED)


def test_a_passage_near_the_mean_of_the_others_is_dropped():
    data = passages([A, X], [B, X], [C, X], [D, X], [X], [Y, Z])
    told = judged(Hubness(centre="corpus", quantile=1.0), data, passages([A, X], [B, X]))
    assert told.keep.tolist() == [True, True, True, True, False, True]
    others = torch.nn.functional.normalize(torch.eye(9)[torch.tensor([A, B, C, D])] + torch.eye(9)[X]).sum(0) + (torch.eye(9)[Y] + torch.eye(9)[Z]) / 2**0.5
    torch.testing.assert_close(told.suspicion[4], others[X] / others.norm())


def test_a_passage_near_the_mean_of_past_questions_is_dropped():
    trusted = asking(passages([A, B], [C, D], [A, Y]), [A, X], [C, X], [])
    data = passages([A, B], [X], [A, X])
    told = judged(Hubness(centre="questions", quantile=1.0), data, trusted)
    # without its own question a trusted passage sees the other one; the third sees both
    mean = torch.nn.functional.normalize(torch.tensor([1.0, 1.0, 2.0]), dim=0)  # a, c, x
    assert told.keep.tolist() == [True, False, False]
    torch.testing.assert_close(told.suspicion, torch.stack([mean[0] / 2**0.5, mean[2], (mean[0] + mean[2]) / 2**0.5]))


def test_the_own_share_is_left_out_of_the_mean():
    generator = Key.root(100).torch()
    points = torch.nn.functional.normalize(torch.randn(9, 5, generator=generator))
    others = torch.stack([points[torch.arange(9) != row].sum(0) for row in range(9)])
    torch.testing.assert_close(central(points, points.sum(0), points), torch.nn.functional.cosine_similarity(points, others).double(), rtol=1e-4, atol=1e-5)


MEMORY = asking(passages([A, B], [C, D], [B, C], [X, Y]), [A, B], [C, X], [], [A, B])


@pytest.mark.parametrize("score", ["max", "max_mean"])
def test_entries_above_the_mean_of_trusted_ones_and_kappa_deviations_are_dropped(score):
    told = judged(MemSad(score=score, kappa=1.0, window=9), data := passages([A, B], [Y, Z], [A, C]), MEMORY)
    half = 0.5
    cosines = {"max": [1.0, 0.0, half], "max_mean": [0.75, 0.0, half]}  # with [a b] and [c x]
    torch.testing.assert_close(told.suspicion, torch.tensor(cosines[score]))
    # trusted, without their own questions: [a b] sees [c x]: 0; [c d] sees [a b]: 0; [b c] sees both: 1/2 and 1/2; [x y] sees [c x]: 1/2
    mean, deviation = 0.25, 0.25
    assert told.keep.tolist() == (told.suspicion <= mean + deviation).tolist() == [False, True, True]
    assert judged(MemSad(score=score, kappa=4.0, window=9), data, MEMORY).keep.all()


def test_copies_of_a_question_are_one_and_old_questions_are_forgotten():
    known = past(MEMORY, 9)
    assert sorted(known.questions.tolist()) == [[A, B, 0, 0], [C, X, 0, 0]]
    assert known.own[0] == known.own[3] != known.own[1]
    assert known.own[2] == -1
    longer = asking(passages([A], [B], [C]), [A, B], [C, X], [D])
    assert past(longer, 2).own.tolist()[0] == -1
    assert len(past(longer, 2).questions) == 2


def test_trusted_rows_without_a_question_of_another_row_calibrate_nothing():
    memory = asking(passages(*[[X, Y]] * 18, [A, B], [C, D]), *[[Z]] * 18, [A, B], [C, D])  # the last tenth of the rows has both recent questions
    told = judged(MemSad(score="max", kappa=1.0, window=2), passages([X, Z], [A, X], [Y]), memory)
    assert told.keep.tolist() == [True, False, True]


def test_small_parts_give_the_same_scores(monkeypatch):
    data, sanitize = passages([A, B], [Y, Z], [A, C], [C], [X, D]), MemSad(score="max_mean", kappa=1.0, window=9)
    whole = judged(sanitize, data, MEMORY)
    monkeypatch.setattr(memsad, "CELLS", 2)
    assert torch.equal(judged(sanitize, data, MEMORY).suspicion, whole.suspicion)


@pytest.mark.parametrize("sanitize", [MemSad(score="max", kappa=1.0, window=9), Hubness(centre="questions", quantile=0.9)])
def test_trusted_rows_without_past_questions_are_refused(sanitize):
    with pytest.raises(ConfigError, match=r"the trusted rows answer 1 instead of 2 or more; set task\.trusted"):
        sanitize.check_trusted(asking(TRUSTED, [A], [A]))
    with pytest.raises(Incompatible, match="the passages of this task have none at any share; use task=facts"):
        sanitize.check_trusted(asking(TRUSTED, [], []))
    with pytest.raises(Incompatible, match="the trusted rows of this task have none; use task=facts"):
        sanitize.check_trusted(TRUSTED)


@pytest.mark.parametrize(
    "sanitize", [NearDuplicate(threshold=0.85, keep="none"), Hubness(centre="corpus", quantile=0.9), MemSad(score="max", kappa=1.0, window=9)]
)
def test_a_victim_that_searches_nothing_is_refused(sanitize):
    means = Means(trusted=MEMORY, fit=lambda rows, draw=0: object(), tune=None, truth=NOBODY)
    with pytest.raises(Incompatible, match="compares passages as a retriever does, and object searches none; use learner=retrieval"):
        sanitize.judge(ALIKE, means, Key.root(100))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (NearDuplicate, {"threshold": 0.0, "keep": "none"}),
        (NearDuplicate, {"threshold": 1.1, "keep": "none"}),
        (Perplexity, {"order": 0, "quantile": 0.9}),
        (Perplexity, {"order": 2, "quantile": 0.0}),
        (Hubness, {"centre": "corpus", "quantile": 1.1}),
        (MemSad, {"score": "max", "kappa": -1.0, "window": 9}),
        (MemSad, {"score": "max", "kappa": 1.0, "window": 1}),
    ],
)
def test_numbers_out_of_range_are_refused(kind, fields):
    with pytest.raises(ConfigError, match=r"defense\.sanitize"):
        kind(**fields)
