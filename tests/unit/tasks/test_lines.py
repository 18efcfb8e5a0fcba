"""Plain files with one text per line, with the labels in a second file, in the names of the files, or nowhere."""

import pytest

from poisonbench.cli import entry
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.report.keeping import destination, write_kept
from poisonbench.storage.store import Store
from tests.unit.report.test_keeping import applied, source
from tests.unit.tasks.test_text_table import task

GOOD = [f"a good film {number}" for number in range(6)]
BAD = [f"a bad play {number}" for number in range(6)]


def written(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    return path


def told(own):
    """Return name, label and text of each row, of the training rows and of the test rows."""
    parts = ((own.train, own.row_names), (own.test, own.test_names))
    label = own.class_names.__getitem__
    return [
        [(names[row], label(kind), data.form.text(ids)) for row, kind, ids in zip(data.ids.tolist(), data.labels.tolist(), data.inputs, strict=True)]
        for data, names in parts
    ]


def test_labels_may_be_in_a_parallel_file_and_empty_lines_are_left_out(tmp_path):
    texts = written(tmp_path / "films.txt", "\ufeffa good film", "", "  a bad play, really ", "fine", "dull")
    labels = written(tmp_path / "moods.txt", "yes", "", "no ", "yes", "no", "", end="\r\n")
    own = task(texts, f"task.labels={labels}", "task.test=0")
    assert (own.name, own.class_names) == ("films", ("no", "yes"))
    assert told(own)[0] == [
        ("films.txt, line 1", "yes", "a good film"),
        ("films.txt, line 3", "no", "a bad play , really"),
        ("films.txt, line 4", "yes", "fine"),
        ("films.txt, line 5", "no", "dull"),
    ]


def test_files_are_classes_and_test_rows_may_be_in_a_folder_of_their_own(tmp_path):
    for part, count in (("train", 6), ("test", 1)):
        for name, lines in (("good", GOOD), ("bad", BAD)):
            written(tmp_path / "films" / part / f"{name}.txt", *(f"{line} {part}" for line in lines[:count]))
    written(tmp_path / "films" / "README.md", "words")
    train, test = told(task(tmp_path / "films"))
    assert train[:2] == [("train/bad.txt, line 1", "bad", "a bad play 0 train"), ("train/bad.txt, line 2", "bad", "a bad play 1 train")]
    assert test == [("test/bad.txt, line 1", "bad", "a bad play 0 test"), ("test/good.txt, line 1", "good", "a good film 0 test")]
    one = task(tmp_path / "films" / "train", "task.test=0.5")
    assert (len(one.train), len(one.test), one.class_names) == (6, 6, ("bad", "good"))


def test_texts_without_labels_have_one_class(tmp_path):
    more = written(tmp_path / "more.txt", "new words here")
    own = task(written(tmp_path / "films.txt", *GOOD), "task.unlabelled=true", f"task.test_file={more}")
    assert own.class_names == ("unlabelled",)
    assert (len(own.train), own.test_names) == (6, ("more.txt, line 1",))


def test_a_table_that_ends_in_txt_is_still_a_table(tmp_path):
    lines = [f"{line}\t{kind}" for kind, part in (("yes", GOOD), ("no", BAD)) for line in part]
    assert len(task(written(tmp_path / "films.txt", "review\tlabel", *lines), "task.test=0").train) == 12
    assert len(task(written(tmp_path / "plays.txt", "said\tmood", *lines), "task.test=0", "task.text=said", "task.label=mood").train) == 12


@pytest.mark.parametrize(("words", "fault", "says"), [
    ([], DataError, r"films\.txt has one text per line and no labels; name a file with one label per line with task\.labels=FILE, or read the rows"),
    (["task.labels=short.txt"], DataError, r"short\.txt has 11 lines and films\.txt has 12; give one label for each text, in the same order"),
    (["task.labels=gap.txt"], DataError, r"films\.txt, line 3: there is no label for this text; correct both files"),
    (["task.labels=same.txt"], DataError, r"same\.txt gives one label, x, to each text, so these are no classes"),
    (["task.labels=each.txt"], DataError, r"each\.txt gives another label to each text, so these are no classes"),
    (["task.labels=none.txt"], DataError, r"no file at task\.labels=none\.txt; give the path of a file with one label per line"),
    (["task.labels=good.txt", "task.unlabelled=true"], ConfigError, r"task\.labels=good\.txt names the file of the labels, and task\.unlabelled=true"),
    (["task.labels=good.txt", "task.label=x"], ConfigError, r"task\.labels=good\.txt names the file of the labels, and task\.label=x contradicts it"),
    (["task.labels=good.txt", "task.test_file=more.txt"], DataError, r"task\.test_file=more\.txt has one text per line and no labels"),
    (["task.labels=good.txt", "task.root=rows.csv"], ConfigError, r"task\.labels=good\.txt: rows\.csv is no \.txt file with one text per line"),
    (["task.labels=good.txt", "task.root=folder"], ConfigError, r"task\.labels=good\.txt: the files in folder are named like their classes"),
    (["task.root=folder"], DataError, r"folder gives one label, only, to each text, so these are no classes"),
    (["task.root=bytes"], DataError, r"bytes/b\.txt, line 2 is no text in UTF-8; save the file as UTF-8"),
    (["task.root=strange"], DataError, r"test contains c\.txt, and .*train does not; give both the same classes"),
])  # fmt: skip
def test_bad_files_are_one_sentence(tmp_path, monkeypatch, words, fault, says):
    monkeypatch.chdir(tmp_path)
    films = written(tmp_path / "films.txt", *GOOD, *BAD)
    labels = {"good": "xy" * 6, "short": "xy" * 5 + "x", "gap": "xy" + " " + "y" * 9, "same": "x" * 12, "each": "abcdefghijkl"}
    for name, kinds in labels.items():
        written(tmp_path / f"{name}.txt", *kinds)
    written(tmp_path / "more.txt", "new words")
    written(tmp_path / "rows.csv", "text,label", "one,x", "two,y")
    written(tmp_path / "folder" / "only.txt", *GOOD)
    written(tmp_path / "bytes" / "a.txt", *GOOD)
    (tmp_path / "bytes" / "b.txt").write_bytes(b"fine words\nfine \xff words\n")
    for name in ("train/a", "train/b", "test/c"):
        written(tmp_path / "strange" / f"{name}.txt", *GOOD)
    monkeypatch.setattr("tests.unit.tasks.test_text_table.Store", lambda _: Store(tmp_path / "store"))
    with pytest.raises(fault, match=says):
        task(films.relative_to(tmp_path), *words)


def test_kept_texts_and_labels_stay_parallel_and_byte_for_byte(tmp_path):
    texts = written(tmp_path / "films.txt", "\ufeffone good", "two bad", "", "three good", "four bad", "five good", end="\r\n")
    labels = written(tmp_path / "moods.txt", "yes", "no", "", "yes", "no", "yes")
    words = (f"task.labels={labels}",)
    out = applied(tmp_path, "texts", texts, [0, 3], *words, names=False, moved=(f"task.labels={tmp_path}/out/moods.txt",))
    assert (out / "films.txt").read_bytes() == "\ufefftwo bad\r\n\r\nthree good\r\nfive good\r\n".encode()
    assert (out / "moods.txt").read_bytes() == b"no\n\nyes\nyes\n"


def test_kept_files_of_classes_lose_their_own_lines(tmp_path):
    for part in ("train", "test"):
        for name, lines in (("good", GOOD), ("bad", BAD)):
            written(tmp_path / "films" / part / f"{name}.txt", *(f"{line} {part}" for line in lines))
    (tmp_path / "films" / "notes.md").write_text("words")
    out = applied(tmp_path, "texts", tmp_path / "films", [1, 2], names=False)
    left = [f"{line} train" for place, line in enumerate(BAD) if place not in (1, 2)]
    assert (out / "films" / "train" / "bad.txt").read_text().splitlines() == left
    for name in ("train/good.txt", "test/bad.txt", "notes.md"):
        assert (out / "films" / name).read_bytes() == (tmp_path / "films" / name).read_bytes()


def test_texts_without_labels_are_kept_with_their_test_file(tmp_path):
    texts, more = written(tmp_path / "films.txt", *GOOD), written(tmp_path / "more.txt", "new words")
    words = ("task.unlabelled=true", f"task.test_file={more}")
    store, first = Store(tmp_path / "store"), source("texts", texts, *words)
    kept = write_kept(first, first.load(store), {2: "x"}, destination(first, str(tmp_path / "out")), store)
    assert kept.root.read_text().splitlines() == [line for place, line in enumerate(GOOD) if place != 2]
    assert (tmp_path / "out" / "more.txt").read_bytes() == more.read_bytes()


def test_plain_files_are_audited_and_attacked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, lines in (("good", GOOD), ("bad", BAD)):
        written(tmp_path / "films" / f"{name}.txt", *(f"{line} {number}" for line in lines for number in "abcde"))
    words = ["task=texts", "task.root=films", "learner=naive_bayes", "threads=1"]
    assert entry(["audit", *words, "defense=knn_outlier"]) == 0
    (path,) = tmp_path.glob("results/audit/*/suspects.csv")
    assert "good.txt, line 7" in path.read_text()
    assert entry([*words, "attack=label_flip", "defense=none", "seed=100"]) == 0, capsys.readouterr().err
