"""The reader that copies."""

import functools

import pytest
import torch

from poisonbench.config.build import build
from poisonbench.config.compose import tree_of
from poisonbench.core.combine import honest
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.keys import key
from poisonbench.core.learner import Trained
from poisonbench.core.plugins import OWN
from poisonbench.core.rng import Key
from poisonbench.retrieval.copying import Copying, CopyingRecipe
from poisonbench.retrieval.local import Local
from tests.unit.retrieval.public_rows import rows

RECIPE = CopyingRecipe(vector=64, width=32, layers=1, heads=2, passages=3, steps=80, batch_size=16, lr=0.005, weight_decay=0.1)
QUICK = CopyingRecipe(vector=16, width=8, layers=1, heads=2, passages=3, steps=2, batch_size=4, lr=0.01, weight_decay=0.0)
DATA = rows()
LEARNED, HELD = DATA.take(torch.arange(240)), DATA.take(torch.arange(240, 320))


@functools.cache
def reader(recipe=RECIPE):
    return Copying(recipe=recipe).with_public(LEARNED, lambda learner, data: learner.fit(data, honest(data), Key.root(100)))


def candidates(data, others=5):
    """None of them, the answer, and further answers of the rows."""
    turns = [data.extra["answer"].roll(-4 * turn, 0) for turn in range(1, others + 1)]
    return torch.stack([torch.zeros_like(data.extra["answer"]), data.extra["answer"], *turns], 1)


def read(groups, answers, recipe=RECIPE, data=HELD):
    return reader(recipe).read(data.extra["question"], groups, answers, data.form)


def test_it_finds_the_answers_about_firms_that_it_has_never_seen_and_says_where_there_is_none():
    others = torch.stack([HELD.inputs.roll(-turn, 0) for turn in (1, 2, 4)], 1)  # other facts about the same firm, for most rows, and the same fact of another
    with_gold = torch.cat([others, HELD.inputs[:, None]], 1)[:, None]
    answers = HELD.extra["answer"]
    different = ~torch.stack([(answers == answers.roll(-turn, 0)).all(1) for turn in (1, 2, 4)]).any(0)
    right = read(with_gold, candidates(HELD))[:, 0].argmax(1)[different]
    none = read(others[:, None], candidates(HELD))[:, 0].argmax(1)[different]
    assert (right == 1).float().mean() >= 0.9
    assert (none == 0).float().mean() >= 0.8


def test_of_contradicting_passages_the_majority_wins():
    wrong = torch.where(HELD.inputs == HELD.extra["answer"][:, :1], HELD.extra["answer"].roll(-4, 0)[:, :1], HELD.inputs)
    differs = HELD.extra["answer"][:, 0] != HELD.extra["answer"].roll(-4, 0)[:, 0]
    groups = torch.stack([HELD.inputs, wrong, wrong, wrong], 1)[:, None]
    assert (read(groups, candidates(HELD))[:, 0].argmax(1)[differs] == 2).float().mean() >= 0.9


def test_a_group_without_passages_is_answered_with_none_of_them_for_certain():
    groups = torch.zeros_like(HELD.inputs)[:, None, None]
    assert read(groups, candidates(HELD), QUICK)[:, 0].equal(torch.eye(7)[:1].expand(len(HELD), -1))


def test_a_second_copy_of_a_passage_doubles_the_odds_of_its_answer_against_none_of_them():
    once = read(HELD.inputs[:, None, None], candidates(HELD), QUICK)[:, 0]
    twice = read(HELD.inputs[:, None, None].repeat(1, 1, 2, 1), candidates(HELD), QUICK)[:, 0]
    torch.testing.assert_close(twice[:, 1] / twice[:, 0], 2 * once[:, 1] / once[:, 0])


def test_neither_order_nor_padding_nor_other_groups_change_what_a_group_says():
    group = torch.stack([HELD.inputs, HELD.inputs.roll(-1, 0), torch.zeros_like(HELD.inputs)], 1)
    answers = candidates(HELD)
    both = read(torch.stack([group, group.flip(1)], 1), answers, QUICK)
    torch.testing.assert_close(both[:, 0], both[:, 1])
    torch.testing.assert_close(both[:, :1], read(group[:, None, :2, :20], answers, QUICK))


def test_the_words_of_an_answer_have_to_stand_together():
    answers = candidates(HELD)
    answers[:, 1, 0] = HELD.form.places["smith"]  # after every person, and before no word of an answer
    assert (read(HELD.inputs[:, None, None], answers, QUICK)[:, 0, 1][answers[:, 1, 1] != 0] == 0).all()


def test_the_store_keeps_it_and_its_key_depends_on_what_it_learned():
    victim = QUICK.fit(LEARNED, honest(LEARNED), Key.root(100))
    again = QUICK.restore(Trained.of(victim), LEARNED, honest(LEARNED))
    args = HELD.extra["question"], HELD.inputs[:, None], candidates(HELD)
    assert again.read(*args).equal(victim.read(*args))
    other = Copying(recipe=QUICK).with_public(LEARNED, lambda learner, data: learner.fit(data, honest(data), Key.root(101)))
    assert key(reader(QUICK)) != key(other)


def test_before_anything_may_be_trained_it_is_unchanged_and_can_be_checked():
    plain = Copying(recipe=QUICK)
    assert plain.with_public(LEARNED, None) is plain
    plain.check(LEARNED)


@pytest.mark.parametrize("public", [LEARNED.take(torch.arange(19)), LEARNED.take(torch.arange(0))])
def test_too_few_public_passages_are_refused(public):
    with pytest.raises(ConfigError, match=r"raise task\.public"):
        Copying(recipe=QUICK).with_public(public, None)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="heads that divide"):
        CopyingRecipe(vector=16, width=8, layers=1, heads=3, passages=3, steps=2, batch_size=4, lr=0.01, weight_decay=0.0)


def test_it_is_no_victim_of_its_own():
    with pytest.raises(Incompatible, match="as the reader"):
        QUICK.fit(LEARNED, honest(LEARNED), Key.root(100)).scores(LEARNED.inputs)


@pytest.mark.parametrize(("name", "kind"), [("copying", Copying), ("local", Local)])
def test_an_option_builds_the_reader_of_a_retrieval(name, kind):
    tree = tree_of(["learner=retrieval", f"reader={name}"])["learner"]
    assert isinstance(build(tree, OWN, "learner").reader, kind)
