"""The exercises of the reader that copies."""

import torch

from poisonbench.core.rng import Key
from poisonbench.retrieval.episodes import PARTS, Lessons, _common, _replaced, _starts, _topics
from tests.unit.retrieval.public_rows import rows

DATA = rows()
LESSONS = Lessons.of(DATA, len(DATA.form.vocabulary))


def test_an_answer_is_replaced_by_a_longer_and_by_a_shorter_one():
    texts, old, new = torch.tensor([[5, 7, 6, 0], [5, 7, 8, 6]]), torch.tensor([[7, 0], [7, 8]]), torch.tensor([[1, 2], [3, 0]])
    assert _replaced(texts, torch.tensor([1, 1]), old, new)[0].tolist() == [[5, 1, 2, 6, 0, 0], [5, 3, 6, 0, 0, 0]]


def test_an_answer_starts_where_all_of_its_words_stand():
    assert _starts(torch.tensor([[7, 7, 8, 0], [7, 7, 0, 0], [5, 5, 5, 7]]), torch.tensor([[7, 8], [7, 8], [7, 0]])).tolist() == [1, -1, 3]
    assert _starts(torch.tensor([[7, 0]]), torch.tensor([[0, 0]])).tolist() == [-1]


def test_names_stand_in_the_passage_whenever_they_stand_in_the_question_and_in_few_rows():
    asked, told = torch.zeros(100, 6, dtype=torch.bool), torch.zeros(100, 6, dtype=torch.bool)
    asked[:2, 1] = told[:2, 1] = True  # a name
    asked[:50, 2] = told[:50, 2] = True  # a function word
    asked[:3, 3] = told[2:4, 3] = True  # a word of questions that is sometimes in a passage
    told[:2, 4] = True  # a word of an answer
    told[0, 5] = True  # once
    assert _common(asked, told, torch.tensor([[4, 0]])).tolist() == [False, False, True, True, False, False]


def test_topics_pair_the_words_that_occur_together():
    asked, told = torch.zeros(40, 5), torch.zeros(40, 5)
    asked[:20, 1], told[:20, 2] = 1, 1
    asked[20:, 3], told[20:, 4] = 1, 1
    topics = _topics(asked, told)
    agreement = torch.nn.functional.normalize(topics.asked, dim=1) @ torch.nn.functional.normalize(topics.told, dim=1).T
    assert agreement[[1, 3], [2, 4]].allclose(torch.ones(2))
    assert agreement[[1, 3], [4, 2]].allclose(torch.zeros(2), atol=1e-5)


def test_the_places_of_an_episode_begin_the_answer_of_the_majority():
    episode = LESSONS.episode(200, 5, 1, Key.root(100).torch())
    supported, seen = ~episode.places[:, -1], set()
    for places, passages in zip(episode.places[supported, :-1], episode.passages[supported], strict=True):
        stated = {int(passages.flatten()[place]) for place in places.nonzero()[:, 0]}
        assert len(stated) == 1
        seen |= stated
    assert seen <= set(DATA.extra["answer"][:, 0].tolist())
    assert 0.2 < supported.float().mean() < 0.9
    none = episode.places[:, -1]
    assert not episode.places[none, :-1].any()


def test_questions_of_an_episode_are_of_one_part_of_the_rows():
    asked = LESSONS.episode(50, 2, 2, Key.root(100).torch()).questions
    rows_of = {tuple(row.tolist()): place for place, row in enumerate(LESSONS.questions[:, : asked.shape[1]])}
    assert {rows_of[tuple(row.tolist())] % PARTS for row in asked} == {2}
