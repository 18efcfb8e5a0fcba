"""Rows without labels: one word reads them, and the error without it names this word."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poisonbench.cli import entry
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.runner.experiment import assemble
from poisonbench.storage.store import Store
from tests.unit.tasks.test_layouts import encoded, paint

TOLD = r"or read the rows without labels with task\.unlabelled=true"


def task(path, *words):
    return assemble(tree_of([f"task.root={path}", "task.trusted=0", "task.test=0", *words]), Store(path.parent / "store")).task


def flat(folder):
    return paint(folder / "pets", "0.png", "1.png", "more/deep/2.png")


def table(folder):
    (folder / "sizes.csv").write_text("age,height\n31,1.5\n32,2.5\n33,3.5\n")
    return folder / "sizes.csv"


def texts(folder):
    (folder / "films.jsonl").write_text("".join(f'{{"text": "a film {number}"}}\n' for number in range(3)))
    return folder / "films.jsonl"


def hub(folder):
    (folder / "hub").mkdir()
    pq.write_table(pa.table({"image": [{"bytes": encoded(value), "path": f"{value}.png"} for value in range(3)]}), folder / "hub" / "train.parquet")
    return folder / "hub"


@pytest.mark.parametrize(("name", "make"), [("image_folder", flat), ("csv", table), ("texts", texts), ("parquet", hub)])
def test_all_rows_get_one_class(tmp_path, name, make):
    path = make(tmp_path)
    with pytest.raises(DataError, match=TOLD):
        task(path, f"task={name}")
    rows = task(path, f"task={name}", "task.unlabelled=true")
    assert rows.class_names == ("unlabelled",)
    assert rows.train.labels.tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match=r"task\.label=x names the labels, and task\.unlabelled=true reads the rows without labels; leave one of them out"):
        task(path, f"task={name}", "task.unlabelled=true", "task.label=x")


def test_a_table_without_classes_chooses_pictures(tmp_path):
    root = flat(tmp_path)
    (root / "list.csv").write_text("file_name,caption\n1.png,one\nmore/deep/2.png,two\n")
    assert task(root, "task=image_folder", "task.unlabelled=true", "task.table=list.csv").row_names == ("1.png", "more/deep/2.png")
    with pytest.raises(ConfigError, match=r"task\.class_depth=1 has no effect"):
        task(root, "task=image_folder", "task.unlabelled=true", "task.class_depth=1")


def test_test_rows_can_be_held_out_of_rows_without_labels(tmp_path):
    path = table(tmp_path)
    held = assemble(tree_of(["task=csv", f"task.root={path}", "task.trusted=0", "task.unlabelled=true", "task.test=0.34"]), Store(tmp_path / "store")).task
    assert (len(held.train), len(held.test)) == (2, 1)


@pytest.fixture
def audited(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"a": number % 7, "b": number % 5} for number in range(40)] + [{"a": 900, "b": -900}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return ["audit", "task=csv", "task.root=rows.jsonl", "task.unlabelled=true", "threads=1", "threat.budget.count=1", "threat.budget.rate=0"]


def test_a_filter_without_need_of_labels_audits_them(audited, tmp_path, capsys):
    assert entry([*[word for word in audited if "budget" not in word], "defense=knn_outlier"]) == 0, capsys.readouterr().err
    (folder,) = (tmp_path / "results" / "audit").iterdir()
    assert (folder / "suspects.csv").read_text().splitlines()[1].split(",")[1:3] == ["line 41", "unlabelled"]


def test_a_filter_that_needs_classes_says_so(audited, capsys):
    assert entry([*[word for word in audited if "budget" not in word], "defense=deep_knn"]) == 2
    assert "works with classes, and all training rows of rows have the same one" in capsys.readouterr().err
