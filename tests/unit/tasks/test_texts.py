import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.tasks.texts import Columns, Document, Texts, distinct, located, read_table

CLASSES = ("ham", "spam")


@dataclass(frozen=True, kw_only=True)
class Plain(Texts):
    VERSION: ClassVar[int] = 1


def texts(**changes) -> Plain:
    return Plain(**{"limit": None, "trusted": 0.0, "public": 0.0, "split_seed": 0, "length": None, "room": 0, "words": (), **changes})


def raw(source: Texts, *pairs: tuple[str, int]):
    documents = [Document(text, label) for text, label in pairs]
    return source.raw("mails", documents[:-1], documents[-1:], ("ham", "spam", "unsure"))


def test_rows_hold_the_words_in_their_order_and_padding_behind_them():
    made = raw(texts(room=2), ("see you", 0), ("you win", 1), ("see", 0))
    assert made.form.vocabulary == ("", "<unk>", "see", "win", "you")
    assert made.train["inputs"].tolist() == [[2, 4, 0, 0], [4, 3, 0, 0]]
    assert made.test["inputs"].tolist() == [[2, 0, 0, 0]]
    assert made.train["labels"].tolist() == [0, 1]


def test_a_row_has_room_for_every_word_unless_told_otherwise():
    made = raw(texts(room=None, words=("cf",)), ("see you", 0), ("you win", 1), ("see", 0))
    assert made.form.vocabulary == ("", "<unk>", "cf", "see", "win", "you")
    assert made.train["inputs"].shape == (2, 2 + 4)


def test_long_texts_are_cut_their_lost_words_are_forgotten_and_the_log_counts_them(caplog):
    with caplog.at_level(logging.WARNING, logger="poisonbench"):
        made = raw(texts(length=2, room=1), ("one two three four", 0), ("two", 1), ("one two three", 0))
    assert made.form.vocabulary == ("", "<unk>", "one", "two")
    assert made.train["inputs"].tolist() == [[2, 3, 0], [3, 0, 0]]
    assert "2 of 3 texts have more than 2 words and are cut; task.length=4 keeps all" in caplog.text


def test_a_length_above_the_longest_text_adds_no_places():
    assert raw(texts(length=50), ("a b", 0), ("b", 1), ("a", 0)).train["inputs"].shape == (2, 2)


@pytest.mark.parametrize(("field", "value"), [("length", 0), ("room", -1), ("words", ("two words",)), ("words", ("Upper",))])
def test_a_field_out_of_range_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"task.{field}"):
        texts(**{field: value})


def test_a_text_without_a_word_and_no_text_at_all_are_refused():
    with pytest.raises(DataError, match="row 1: the text has no word"):
        raw(texts(), ("fine", 0), (" \t", 1), ("fine", 0))
    with pytest.raises(DataError, match="no texts to train on"):
        texts().raw("mails", [], [Document("fine", 0)], CLASSES)


def test_texts_with_the_same_words_are_left_out_but_the_first(caplog):
    documents = [Document("See you", 0, "line 1"), Document("you see", 0), Document("see  YOU", 1, "line 3")]
    with caplog.at_level(logging.WARNING, logger="poisonbench"):
        assert distinct("mails", documents) == documents[:2]
    assert "1 of 3 texts repeat" in caplog.text


def test_a_table_is_read_by_number_or_by_name(tmp_path):
    by_number, by_name = tmp_path / "a.tsv", tmp_path / "b.tsv"
    by_number.write_text('ham\tsay "hi\nspam\twin £5\n', encoding="utf-8")
    by_name.write_bytes("\ufefftext\tkind\r\nsay hi\tham\r\nwin £5\tspam".encode())
    assert read_table(by_number, Columns(text=1, label=0), CLASSES) == [Document('say "hi', 0, "line 1"), Document("win £5", 1, "line 2")]
    assert read_table(by_name, Columns(text="text", label="kind"), CLASSES) == [Document("say hi", 0, "line 2"), Document("win £5", 1, "line 3")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"ham\thi\nspam\twin \xff\n", r"line 2: byte 10 is no UTF-8"),
        (b"ham\thi\nspam\n", r"line 2: 1 columns and no column 1"),
        (b"ham\thi\nspam\t  \n", r"line 2: the text has no word"),
        (b"ham\thi\neggs\twin\n", r"line 2: the label 'eggs' is no class; the classes are ham, spam"),
        (b"ham\thi\nham\tyou\n", r"2 rows, and none has the label spam"),
        (b"", r"0 rows, and none has the label ham"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence_with_the_file_and_the_line(tmp_path, content, says):
    file = tmp_path / "mails.tsv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_table(file, Columns(text=1, label=0), CLASSES)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(("content", "says"), [("text\tkind\nhi\tham\n", "no column is named label; the columns are text, kind"), ("", "the file is empty")])
def test_a_missing_column_is_refused(tmp_path, content, says):
    file = tmp_path / "mails.tsv"
    file.write_text(content)
    with pytest.raises(DataError, match=says):
        read_table(file, Columns(text="text", label="label"), CLASSES)


def test_a_file_is_found_in_its_folder_or_by_its_path_with_variables(tmp_path, monkeypatch):
    (tmp_path / "mails.tsv").write_text("ham\thi\n")
    monkeypatch.setenv("DATA", str(tmp_path))
    assert located("$DATA", "mails.tsv") == located("$DATA/mails.tsv", "mails.tsv") == tmp_path / "mails.tsv"
    with pytest.raises(DataError, match=r"name its folder with task\.root=PATH"):
        located(None, "mails.tsv")
    with pytest.raises(DataError, match=r"no file other\.tsv at task\.root=\$DATA"):
        located("$DATA", "other.tsv")


def test_texts_become_a_task_whose_splits_share_one_form():
    pairs = [(f"mail number {number}", number % 2) for number in range(40)]
    task = texts(test=0.25, trusted=0.1).task("mails", texts().raw("mails", [Document(*pair) for pair in pairs], [], ("ham", "spam", "unsure")))
    assert (len(task.train), len(task.test), len(task.trusted)) == (27, 10, 3)
    assert task.train.form == task.test.form == task.trusted.form
    assert task.train.inputs.dtype == torch.int64
    assert task.train.num_classes == 3


def test_texts_that_are_equal_after_the_cut_are_refused_with_the_cut_as_a_cause():
    documents = [Document(f"one two {number}", number % 2) for number in range(8)]
    cut = texts(test=0.25, length=2)
    with pytest.raises(DataError, match=r"test rows are train rows too .*; task\.length=2 cuts longer texts, which can make different ones equal"):
        cut.task("mails", cut.raw("mails", documents, [], ("ham", "spam", "unsure")))
    whole = texts(test=0.25, length=9)
    with pytest.raises(DataError, match=r"task\.duplicates=allow$"):
        whole.task("mails", whole.raw("mails", [Document("one two", number % 2) for number in range(8)], [], ("ham", "spam", "unsure")))
