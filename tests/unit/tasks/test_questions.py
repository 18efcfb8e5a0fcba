import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.retrieve import fingerprints
from poisonbench.tasks.questions import Library, Passage, Question, Questions

SUN = Passage("the sun is big")
MOON = Passage("the moon is small")
ASKED = Question("how big is the sun", ("small", "big", "very big"), right=1, wish=2, gold=(0,), claims=("the sun is very big", "it is very big"))


@dataclass(frozen=True, kw_only=True)
class Plain(Questions):
    VERSION: ClassVar[int] = 1


def plain(**changes) -> Plain:
    fields = {"trusted": 0.0, "public": 0.0, "split_seed": 100, "duplicates": "refuse", "length": None, "room": 1, "words": ("cf",)}
    return Plain(**{**fields, **changes})


def posed(index=(SUN, MOON), questions=(ASKED,), trusted=(), public=(), **changes):
    return plain(**changes).posed("sky", Library(index, trusted, public), questions)


def words(task, rows: torch.Tensor) -> list[str]:
    return [task.train.form.text(row) for row in rows]


def test_passages_are_training_rows_of_one_class_and_questions_are_test_rows_of_the_same_form_and_width():
    task = posed()
    assert words(task, task.train.inputs) == ["the sun is big", "the moon is small"]
    assert words(task, task.test.inputs) == ["how big is the sun"]
    assert task.train.inputs.shape[1] == task.test.inputs.shape[1] == 5 + 1
    assert task.train.form == task.test.form
    assert task.train.form.vocabulary == ("", "<unk>", "big", "cf", "how", "is", "it", "moon", "small", "sun", "the", "very")
    assert (task.train.num_classes, task.test.num_classes, task.class_names) == (1, 4, ("passage",))
    assert task.train.labels.tolist() == [0, 0]


def test_the_first_candidate_has_no_words_and_the_others_keep_their_order():
    task = posed()
    asked = task.test.ask
    assert words(task, asked.table[asked.of[0]]) == ["", "small", "big", "very big"]
    assert (task.test.labels.tolist(), task.test.extra["wish"].tolist()) == ([2], [3])


def test_two_questions_share_equal_answers():
    other = ASKED._replace(text="how big is the moon", answers=("big", "small", "sun"), right=1, wish=0, gold=(1,), claims=())
    asked = posed(questions=[ASKED, other]).test.ask
    assert len(asked.table) == 5
    assert asked.of.tolist() == [[0, 1, 2, 3], [0, 2, 1, 4]]


def test_gold_is_the_fingerprint_of_the_passages_and_padding_does_not_count():
    other = ASKED._replace(text="what is there", gold=(1, 0), claims=("this",))
    task = posed(questions=[ASKED, other])
    marks = fingerprints(task.train.inputs).tolist()
    assert task.test.extra["gold"].tolist() == [[marks[0], 0], sorted(marks)]


def test_claims_are_rows_with_padding_where_a_question_has_fewer():
    other = ASKED._replace(text="what is there", claims=("this",))
    task = posed(questions=[ASKED, other])
    claims = task.test.extra["claims"]
    assert claims.shape == (2, 2, 6)
    assert [words(task, row) for row in claims] == [["the sun is very big", "it is very big"], ["this", ""]]
    assert posed(questions=[ASKED._replace(claims=())]).test.extra["claims"].shape == (1, 0, 6)


def test_trusted_and_public_rows_have_their_earlier_question_and_are_not_in_the_index():
    task = posed(trusted=[Passage("mars is red", "is mars red")], public=[Passage("venus is hot")])
    assert words(task, task.trusted.inputs) == ["mars is red"]
    assert words(task, task.trusted.extra["question"]) == ["is mars red"]
    assert words(task, task.public.extra["question"]) == [""]
    assert len(task.train) == 2
    assert [*task.train.ids.tolist(), *task.trusted.ids.tolist(), *task.public.ids.tolist()] == [0, 1, 2, 3]
    assert posed().trusted.extra["question"].shape == (0, 6)


def test_a_passage_that_repeats_the_words_of_another_is_left_out_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING, logger="poisonbench"):
        task = posed(index=[MOON, Passage("The SUN is big"), SUN], questions=[ASKED._replace(gold=(2,))], trusted=[MOON])
    assert words(task, task.train.inputs) == ["the moon is small", "the sun is big"]
    assert len(task.trusted) == 0
    assert task.test.extra["gold"].tolist() == [[int(fingerprints(task.train.inputs)[1])]]
    assert "2 of 4 passages repeat the words of an earlier one and are left out" in caplog.text


def test_long_texts_are_cut_but_answers_are_not():
    task = posed(length=3, room=0, questions=[ASKED._replace(text="how big the sun is", answers=("a very very big thing", "big"), right=1, wish=0)])
    assert words(task, task.train.inputs) == ["the sun is", "the moon is"]
    assert words(task, task.test.ask.table)[1] == "a very very big thing"


def test_a_question_that_is_a_passage_is_refused_unless_that_is_allowed():
    asked = [ASKED._replace(text="the sun is big")]
    with pytest.raises(DataError, match=r"1 test rows are train rows too \(test row 0 is train row 0\); remove them, or .* task\.duplicates=allow$"):
        posed(questions=asked)
    assert posed(questions=asked, duplicates="allow").duplicates["train/test"].tolist() == [[0, 0]]
    with pytest.raises(DataError, match=r"task\.length=2 cuts longer texts, which can make different ones equal"):
        posed(questions=[ASKED._replace(text="the sun")], length=2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"index": ()}, "sky has no passages to search; add some, one per line"),
        ({"questions": ()}, "sky has no questions; add some, one per line"),
        ({"index": (SUN, Passage(" \t"))}, "sky, passage 1: the passage has no word; correct or remove it"),
        ({"index": (SUN, Passage(" ", name="line 7"))}, "sky, line 7: the passage has no word; correct or remove it"),
        ({"questions": [ASKED._replace(text="")]}, "sky, question 0: the question has no word; correct or remove it"),
        (
            {"questions": [ASKED._replace(name="line 3"), ASKED._replace(text="How BIG is the sun")]},
            "sky, question 1: the question has the words of line 3; remove one of them",
        ),
        ({"questions": [ASKED._replace(answers=("big", " "))]}, "sky, question 0: an answer has no word; correct or remove it"),
        ({"questions": [ASKED._replace(answers=("big", "small", "BIG"))]}, "sky, question 0: the answer 'BIG' is given twice; give different answers"),
    ],
)
def test_texts_without_words_and_repeated_ones_are_refused(changes, says):
    with pytest.raises(DataError) as caught:
        posed(**changes)
    assert str(caught.value) == says


@pytest.mark.parametrize("changes", [{"trusted": -0.1}, {"trusted": 0.5, "public": 0.5}, {"length": 0}, {"room": -1}, {"words": ("two words",)}])
def test_a_field_out_of_range_is_refused(changes):
    with pytest.raises(ConfigError, match="task"):
        plain(**changes)


def test_passages_set_aside_answer_no_question_and_gold_moves_with_its_passage():
    passages = [Passage(f"text {number}") for number in range(10)]
    questions = [ASKED._replace(gold=(9, 3)), ASKED._replace(gold=(5,))]
    library, moved = plain(trusted=0.2, public=0.3).set_aside(passages, questions)
    assert [len(part) for part in library] == [5, 2, 3]
    assert sorted(passage for part in library for passage in part) == sorted(passages)
    assert [[library.searched[place].text for place in question.gold] for question in moved] == [["text 9", "text 3"], ["text 5"]]
    assert plain(trusted=0.2, public=0.3).set_aside(passages, questions)[0] == library
    assert plain(trusted=0.2, public=0.3, split_seed=101).set_aside(passages, questions)[0] != library
    with pytest.raises(ConfigError, match=r"task\.trusted=0\.9, task\.public=0\.0: 9 of 10 passages, and 7 answer no question; lower the shares"):
        plain(trusted=0.9).set_aside(passages, questions)
