import dataclasses

import pytest
import torch

from attacks.retrieval.one_passage import OnePassage
from poisonbench.core.audit import audit
from poisonbench.core.errors import ConfigError
from poisonbench.forms.tokens import SPECIAL, Tokens
from tests.unit.attacks.retrieval.worlds import FORM, RNG, WORDS, A, B, C, X, known, passages, questions

INDEX = passages((A, B, X), (C, X), length=30)
AIMS = questions(((A, B), 1, 2, [(A, B, X)], []), ((C,), 3, 1, [], []), length=30)
SENTENCES = {
    "as": "{q} many outdated sources state that the answer is {r} . the latest data confirm that the correct answer is {w} .",
    "ak": "{q} older records name {r} , but they have been corrected since , and recent sources agree on {w} .",
}


def struck(count=2, style="as", index=INDEX, aims=AIMS):
    knows = known(index, aims, count)
    poisoned = OnePassage(style=style).poison(knows, RNG)
    audit(index, poisoned, knows.budget, knows.writable, aims)
    return poisoned


@pytest.mark.parametrize("style", ["as", "ak"])
def test_a_passage_is_the_question_and_a_sentence_with_both_answers(style):
    texts = [FORM.decode(each) for each in struck(style=style).data.inputs[2:]]
    assert texts == [SENTENCES[style].format(q="a b", r="x", w="y"), SENTENCES[style].format(q="c", r="z", w="x")]


def test_a_larger_budget_repeats_the_passage_and_none_writes_none():
    poisoned = struck(count=5)
    assert poisoned.data.inputs[2].equal(poisoned.data.inputs[3])
    assert int(poisoned.mask.sum()) == 4
    assert not struck(count=0).mask.any()


def test_a_sentence_longer_than_a_row_is_refused():
    aims = questions(((A, B), 1, 2, [], []), length=8)
    with pytest.raises(ConfigError, match=r"has 23 words and a row of the task 8 places; raise task\.room by 15"):
        struck(count=1, aims=aims, index=passages((A, B, X)))


def test_words_that_the_task_lacks_are_named():
    form = Tokens(vocabulary=(*SPECIAL, *WORDS, "many"))
    index = dataclasses.replace(INDEX, schema={**INDEX.schema, "inputs": dataclasses.replace(INDEX.schema["inputs"], form=form)})
    with pytest.raises(ConfigError, match=r"'outdated', 'sources', .* not in the vocabulary of the task.*task\.words"):
        struck(index=index)


def test_passages_belong_to_their_question():
    goal = struck(count=4).goal
    assert goal.texts.shape == (2, 2, 30)
    assert goal.ids.equal(AIMS.ids)
    assert goal.wish.tolist() == [2, 1]
    assert torch.equal(goal.texts[0, 0, :2], torch.tensor([A, B]))
