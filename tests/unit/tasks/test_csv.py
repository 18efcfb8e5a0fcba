"""Tables in CSV files, and those that come with scikit-learn."""

import csv
import random
from pathlib import Path

import pytest
import torch

from poisonbench.core.errors import DataError
from poisonbench.tasks.bundled import Bundled
from poisonbench.tasks.csv import Csv

SPLIT = {"limit": None, "trusted": 0.0, "public": 0.0, "split_seed": 0}
HEADER = "age,colour,size,label"
ROWS = ["31,red,1.5,yes", "32,blue,2e1,no", "33,red,-3,no", "34,green,4,yes"]


def written(folder: Path, *lines: str, name: str = "people.csv") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def loaded(file: Path, store, **words):
    fields = {"label": None, "categorical": None, "test_file": None} | SPLIT | words
    return Csv(root=str(file), **fields).load(store)


def refused(file: Path, store, **words) -> str:
    with pytest.raises(DataError) as caught:
        loaded(file, store, **words)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(file.parent) + "/", "")


def test_numbers_stay_and_categories_become_columns_of_zero_and_one(tmp_path, store):
    task = loaded(written(tmp_path, HEADER, *ROWS), store)
    assert task.train.form.names == ("age", "colour=blue", "colour=green", "colour=red", "size")
    assert task.train.inputs.tolist() == [[31, 0, 0, 1, 1.5], [32, 1, 0, 0, 20], [33, 0, 0, 1, -3], [34, 0, 1, 0, 4]]
    assert task.train.inputs.dtype == torch.float32
    assert task.class_names == ("no", "yes")
    assert task.train.labels.tolist() == [1, 0, 0, 1]
    assert task.name == "people"
    assert task.row_names == ("line 2", "line 3", "line 4", "line 5")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_semicolons_tabs_quotes_and_blank_lines(tmp_path, store, mark):
    lines = [line.replace(",", mark) for line in (HEADER, "", f'31,"red{mark} dark",1.5,yes', *ROWS[1:])]
    task = loaded(written(tmp_path, *lines), store)
    assert f"colour=red{mark} dark" in task.train.form.names
    assert task.row_names[0] == "line 3"


def test_numbers_can_be_categories_and_the_label_can_be_named(tmp_path, store):
    task = loaded(written(tmp_path, HEADER, *ROWS), store, categorical=("age", "colour"), label="label")
    assert task.train.form.names[:4] == ("age=31", "age=32", "age=33", "age=34")
    task = loaded(written(tmp_path, "age,label,y", "1,5,10", "2,6,10", "3,7,9"), store, label="y")
    assert task.train.form.names == ("age", "label")
    assert task.class_names == ("9", "10")


def test_categories_are_those_that_no_attacker_can_write(tmp_path, store, caplog):
    rows = [f"{place},{'rare' if place == 7 else ('red', 'blue')[place % 4 // 2]},{('no', 'yes')[place % 2]}" for place in range(40)]
    file = written(tmp_path, "age,colour,label", *rows)
    seed = next(seed for seed in range(100) if 7 in loaded(file, store, split_seed=seed, trusted=0.5).train.ids)
    caplog.clear()
    task = loaded(file, store, split_seed=seed, trusted=0.5)
    assert task.train.form.names == ("age", "colour=blue", "colour=red")
    assert task.train.inputs[task.train.ids == 7].tolist() == [[7, 0, 0]]
    assert task.trusted.form == task.train.form
    assert "1 categories of colour are in no trusted or public row (rare)" in caplog.text
    assert "attacker" not in caplog.text
    caplog.clear()
    assert "colour=rare" in loaded(file, store).train.form.names
    assert "which an attacker can write" in caplog.text


def test_test_rows_are_held_out_or_come_from_a_second_file(tmp_path, store):
    rows = [f"{place},{('no', 'yes')[place % 2]}" for place in range(20)]
    file = written(tmp_path, "age,label", *rows)
    held = loaded(file, store, test=0.2)
    assert sorted(held.test.labels.tolist()) == [0, 0, 1, 1]
    assert sorted(torch.cat([held.train.inputs, held.test.inputs])[:, 0].tolist()) == list(range(20))
    other = written(tmp_path, "note,label,age", "a,yes,50", name="other.csv")
    assert loaded(file, store, test=0.2, test_file=str(other)).test.inputs.tolist() == [[50]]
    assert loaded(file, store, test_file=str(other)).test.labels.tolist() == [1]


BROKEN = {
    "a word among numbers": ([HEADER, ROWS[0], "old,red,1,no", *ROWS[2:]], "people.csv, line 3, column age: 'old' is no number"),
    "a number among words": ([HEADER, *ROWS, "35,7,1,no"], "people.csv, line 2, column colour: 'red' is no number"),
    "an empty cell": ([HEADER, ROWS[0], "32,  ,1,no"], "people.csv, line 3, column colour: the cell is empty"),
    "no label": ([HEADER, ROWS[0], "32,red,1,"], "people.csv, line 3, column label: the cell is empty"),
    "not finite": ([HEADER, ROWS[0], "nan,red,1,no", *ROWS], "people.csv, line 3, column age: nan is not a finite number"),
    "too large": ([HEADER, ROWS[0], "1e39,red,1,no", *ROWS], "people.csv, line 3, column age: 1e39 is not a finite number"),
    "a short line": ([HEADER, ROWS[0], "32,red,1"], "people.csv, line 3 has 3 cells, and the header names 4 columns"),
    "an open quote": ([HEADER, ROWS[0], '32,"red,1,no'], "people.csv, line 3 cannot be read"),
    "no rows": ([HEADER], "people.csv has a header and no rows"),
    "nothing": ([""], "people.csv is empty"),
    "no header": (ROWS, "people.csv has the columns 31, red, 1.5, yes; name that of the classes"),
    "columns of one name": (["age,age,label", "1,2,no"], "people.csv has two columns named age"),
    "a column without a name": (["age,,label", "1,2,no"], "people.csv, line 1: column 2 has no name"),
    "one class": ([HEADER, ROWS[0], "35,red,1,yes"], "the same value, yes, in every row"),
    "no classes": ([HEADER, ROWS[0], "35,red,1,0.25", "35,red,1,0.5"], "another value in each of its 3 rows"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_table_that_cannot_be_read_is_refused_with_its_place(tmp_path, store, case):
    lines, sentence = BROKEN[case]
    assert sentence in refused(written(tmp_path, *lines), store)


def test_marks_that_only_unicode_counts_as_line_ends_are_part_of_a_cell(tmp_path, store):
    task = loaded(written(tmp_path, HEADER, "31,red\u2028dark,1,yes", *ROWS[1:]), store)
    assert "colour=red\u2028dark" in task.train.form.names


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path, store):
    before = csv.field_size_limit()
    task = loaded(written(tmp_path, HEADER, f"31,{'x' * (before + 1)},1,yes", *ROWS[1:]), store)
    assert f"colour={'x' * (before + 1)}" in task.train.form.names
    assert csv.field_size_limit() == before


def test_random_damage_is_read_or_refused_in_one_sentence(tmp_path, store):
    dice, sentences = random.Random(0), list[str]()
    whole = "\n".join([HEADER, *ROWS * 3]).encode()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            place = dice.randrange(len(damaged))
            damaged[place : place + dice.randrange(3)] = dice.choice([b"", b'"', b"\n", b"\0", b",", b"x", b"\xff", b"9" * 50])
        file = tmp_path / "people.csv"
        file.write_bytes(damaged)
        try:
            loaded(file, store, duplicates="allow")
        except DataError as error:
            sentences.append(str(error))
    assert 20 < len(sentences) < 280
    assert all("people" in sentence and "\n" not in sentence for sentence in sentences)


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path, store):
    file = tmp_path / "people.csv"
    file.write_bytes(f"{HEADER}\n{ROWS[0]}\n32,caf".encode() + b"\xe9,1,no\n")
    assert "people.csv, line 3 is no text in UTF-8" in refused(file, store)


def test_names_of_no_file_and_no_column_are_refused(tmp_path, store):
    file = written(tmp_path, HEADER, *ROWS)
    assert "task.root=" in refused(tmp_path / "none.csv", store)
    assert "task.label=sex: people.csv has the columns age, colour, size, label" in refused(file, store, label="sex")
    assert "task.categorical=sex" in refused(file, store, categorical=("sex",))
    with pytest.raises(DataError, match=r"task.root=PATH"):
        Csv(root=None, label=None, categorical=None, test_file=None, **SPLIT).load(store)


def test_a_second_file_has_the_columns_and_the_classes_of_the_first(tmp_path, store):
    file = written(tmp_path, HEADER, *ROWS)
    lacking = written(tmp_path, "age,colour,label", "1,red,no", name="lacking.csv")
    assert "lacking.csv has no column size" in refused(file, store, test_file=str(lacking))
    strange = written(tmp_path, HEADER, "1,red,2,perhaps", name="strange.csv")
    assert "strange.csv, line 2, column label: 'perhaps' is no class of the training rows, which are no, yes" in refused(file, store, test_file=str(strange))


@pytest.mark.parametrize(("name", "shape", "counts"), [("breast_cancer", (569, 30), [212, 357]), ("wine", (178, 13), [59, 71, 48])])
def test_bundled_tables_are_those_of_scikit_learn(store, name, shape, counts):
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    task = Bundled(name=name, **SPLIT).load(store)
    assert tuple(task.train.inputs.shape) == shape
    assert task.train.inputs.equal(torch.from_numpy(bunch.data).float())
    assert task.train.labels.bincount().tolist() == counts
    assert task.train.labels.equal(torch.from_numpy(bunch.target).long())
    assert task.train.form.names == tuple(str(column) for column in bunch.feature_names)
    assert task.class_names == tuple(bunch.target_names)
    held = Bundled(name=name, **SPLIT | {"split_seed": 5}, test=0.2).load(store)
    assert len(held.test) == round(0.2 * shape[0])


def test_a_column_of_texts_or_names_is_no_column_of_categories(tmp_path, store):
    lines = [f"{age},name {age},{'yes' if age % 2 else 'no'}" for age in range(30)]
    file = written(tmp_path, "age,name,label", *lines)
    assert "people.csv, column name has 30 different values in 30 rows, so they are texts or names" in refused(file, store)
    assert loaded(file, store, categorical=("name",)).train.inputs.shape == (30, 31)
