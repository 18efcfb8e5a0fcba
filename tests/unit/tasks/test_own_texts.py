"""Your own texts, tables and token ids."""

import numpy as np
import pytest
import torch

import poisonbench
from poisonbench.core.errors import DataError
from poisonbench.forms.reals import Reals
from poisonbench.forms.tokens import Tokens

TEXTS = [f"{word} film number {number}" for number in range(20) for word in ("good", "bad")]
LABELS = ["yes", "no"] * 20


@pytest.mark.parametrize("rows", [TEXTS, tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object)], ids=["list", "tuple", "array", "objects"])
def test_lists_and_arrays_of_texts_become_tokens(rows):
    task = poisonbench.own_task(train=(rows, LABELS), test=(["a good film", "a bad one"], ["yes", "no"]), trusted=0.0, words=["cf"])
    form = task.train.form
    assert isinstance(form, Tokens)
    assert form.text(task.train.inputs[0]) == TEXTS[0]
    assert form.text(task.test.inputs[1]) == "a bad one"
    assert form.ids(["cf"])
    assert task.class_names == ("no", "yes")
    assert task.train.inputs.shape == (40, 4 + 16)


def test_texts_without_test_rows_are_for_an_audit():
    assert len(poisonbench.own_task(train=(TEXTS, LABELS), test=None).test) == 0


def test_a_row_that_is_no_text_and_a_missing_label_are_named():
    with pytest.raises(DataError, match="own, training rows: row 1 is a int; give a text for every row"):
        poisonbench.own_task(train=(["good", 3], ["yes", "no"]), test=None)
    with pytest.raises(DataError, match="own, training rows: 2 texts and 1 labels"):
        poisonbench.own_task(train=(["good", "bad"], ["yes"]), test=None)
    with pytest.raises(DataError, match="own, row 1: the text has no word"):
        poisonbench.own_task(train=(["good", " "], ["yes", "no"]), test=None)


def test_a_table_keeps_the_names_of_its_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1.0, 2.0, 3.0, 4.0], "size": [4, 3, 2, 1]})
    task = poisonbench.own_task(train=(frame, [0, 1, 0, 1]), test=None, trusted=0.0)
    assert task.train.form == Reals(names=("age", "size"))
    floats = poisonbench.own_task(train=(frame.to_numpy(), [0, 1, 0, 1]), test=None, trusted=0.0)
    assert floats.train.form == Reals(names=("x0", "x1"))


def test_token_ids_need_their_vocabulary():
    ids = torch.tensor([[2, 3, 0], [3, 2, 2]])
    with pytest.raises(DataError, match=r"for token ids name their vocabulary with form=Tokens\(vocabulary=...\)"):
        poisonbench.own_task(train=(ids, [0, 1]), test=None)
    form = Tokens(vocabulary=("", "<unk>", "good", "bad"))
    task = poisonbench.own_task(train=(ids, [0, 1]), test=None, form=form, trusted=0.0)
    assert task.train.form.text(task.train.inputs[0]) == "good bad"
    with pytest.raises(DataError, match="a token is out of range; 4 words"):
        poisonbench.own_task(train=(ids + 2, [0, 1]), test=None, form=form)


def test_your_own_texts_are_attacked_and_a_picture_attack_is_skipped_in_words(tmp_path):
    test = ([f"a {word} film of {number}" for number in range(10) for word in ("good", "bad")], ["yes", "no"] * 10)
    task = poisonbench.own_task(train=(TEXTS, LABELS), test=test, trusted=0.0, words=["cf", "mn", "bb", "tq", "mb"])
    record = poisonbench.run("attack=label_flip", "learner=naive_bayes", task=task, results_dir=str(tmp_path))
    assert record.status == "done"
    assert record.spec["task"]["form"] == "tokens"
    skipped = poisonbench.run("attack=backdoor", "learner=naive_bayes", task=task, results_dir=str(tmp_path))
    assert skipped.status == "skipped"
    assert skipped.reason == "attack: BadNets reads pixels, but the inputs of own are tokens; choose another attack that reads tokens, `list attack` names all"


def test_the_columns_of_test_rows_are_found_by_their_names():
    pandas = pytest.importorskip("pandas")
    train = pandas.DataFrame({"age": [1, 2, 3, 4], "size": [0.5, 0.25, 0.125, 0.0]})
    test = pandas.DataFrame({"size": [0.75], "age": [9]})
    task = poisonbench.own_task(train=(train, [0, 1, 0, 1]), test=(test, [1]), trusted=0.0)
    assert task.test.inputs.tolist() == [[9, 0.75]]
    assert task.train.form == Reals(names=("age", "size"))
    with pytest.raises(DataError, match="own, test rows: the training rows have the column age, these rows do not"):
        poisonbench.own_task(train=(train, [0, 1, 0, 1]), test=(test[["size"]], [1]))
    with pytest.raises(DataError, match="column name holds no numbers; encode it"):
        poisonbench.own_task(train=(train.assign(name="x"), [0, 1, 0, 1]), test=None)


def test_a_data_set_of_texts_is_read():
    pairs = [(text, label) for text, label in zip(TEXTS, LABELS, strict=True)]

    class Rows:
        def __len__(self):
            return len(pairs)

        def __getitem__(self, row):
            return pairs[row]

    assert isinstance(poisonbench.own_task(train=Rows(), test=None).train.form, Tokens)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"train": (TEXTS, LABELS), "words": "cf"}, r"words='cf' is a text; give a list of words, such as \['cf'\]"),
        ({"train": (TEXTS, LABELS), "form": Reals.numbered(2)}, "form has no effect on texts"),
        ({"train": (np.zeros((2, 2)), [0, 1]), "words": ["cf"]}, "words has an effect on texts alone"),
        ({"train": ([], [])}, "own, training rows: no rows"),
    ],
)
def test_arguments_without_an_effect_are_refused(arguments, says):
    with pytest.raises(DataError, match=says):
        poisonbench.own_task(test=None, **arguments)


def test_token_ids_may_be_of_any_whole_number_type():
    form = Tokens(vocabulary=("", "<unk>", "good", "bad"))
    ids = np.array([[2, 3, 0], [3, 2, 2]], dtype=np.int32)
    assert poisonbench.own_task(train=(ids, [0, 1]), test=None, form=form, trusted=0.0).train.inputs.dtype == torch.int64


def test_a_network_that_calculates_with_numbers_does_not_read_token_ids_as_grey_levels(tmp_path):
    test = ([f"a {word} film of {number}" for number in range(10) for word in ("good", "bad")], ["yes", "no"] * 10)
    task = poisonbench.own_task(train=(TEXTS, LABELS), test=test, trusted=0.0)
    record = poisonbench.run("attack=none", "net=linear", task=task, results_dir=str(tmp_path))
    assert record.status == "skipped"
    assert record.reason.startswith("learner: Linear reads numbers or pixels or reals, but the inputs of own are tokens")
