"""Your own texts in a CSV or TSV file."""

import pytest

from poisonbench.cli import entry
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import DataError
from poisonbench.runner.experiment import assemble
from poisonbench.storage.store import Store

ROWS = [f'{number},"a {word}, film {number}",{label}' for number in range(10) for word, label in (("good", "yes"), ("bad", "no"))]


def task(path, *words):
    return assemble(tree_of(["task=texts", f"task.root={path}", "task.trusted=0", "learner=naive_bayes", *words]), Store(path.parent / "store")).task


def written(folder, *lines, name="films.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_are_found_by_their_names_and_cells_may_be_quoted(tmp_path):
    own = task(written(tmp_path, "id,Review,label", *ROWS))
    assert own.name == "films"
    assert own.class_names == ("no", "yes")
    assert (len(own.train), len(own.test)) == (16, 4)
    assert own.train.form.text(own.train.inputs[0]).startswith("a good , film")
    tabs = written(
        tmp_path, "body\tmood", *[f"a {word} film {number}\t{label}" for number in range(10) for word, label in (("good", 1), ("bad", 0))], name="films.tsv"
    )
    assert len(task(tabs, "task.label=mood", "task.test=0").train) == 20


def test_test_rows_may_be_in_a_file_of_their_own(tmp_path):
    other = written(tmp_path, "label,review", "no,a dull film", name="more.csv")
    assert len(task(written(tmp_path, "id,review,label", *ROWS), f"task.test_file={other}").test) == 1


@pytest.mark.parametrize(
    ("lines", "words", "says"),
    [
        (["id,words,label", *ROWS], [], r"films\.csv has the columns id, words, label; name that of the texts with task\.text=COLUMN"),
        (["id,review,label", *ROWS], ["task.text=words"], r"task\.text=words: .*films\.csv has the columns"),
        (["id,review,label", *ROWS, '11,"  ",yes'], [], r"films\.csv, line 22"),
        (["id,review,mood", *ROWS], [], r"name that of the classes with task\.label=COLUMN"),
    ],
)
def test_bad_files_are_named_with_line_and_column(tmp_path, lines, words, says):
    with pytest.raises(DataError, match=says):
        task(written(tmp_path, *lines), *words)


def test_a_label_of_the_test_file_that_no_training_row_has_ends_the_run_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = written(tmp_path, "label,review", "maybe,a dull film", name="more.csv")
    path = written(tmp_path, "id,review,label", *ROWS)
    assert entry(["task=texts", f"task.root={path}", f"task.test_file={other}", "task.test=0", "learner=naive_bayes", "attack=label_flip"]) == 2
    assert "more.csv, line 2, column label: 'maybe' is no class of the training rows, which are no, yes" in capsys.readouterr().err
    assert not list(tmp_path.glob("results/records/*"))
