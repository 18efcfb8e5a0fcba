"""Kept rows in the format of their source: what is written reads back as exactly the kept rows."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import Tensor

from poisonbench.cli import entry
from poisonbench.config.build import build
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import CannotWrite, ConfigError, DataError
from poisonbench.core.files import file_digest
from poisonbench.forms.tokens import Tokens
from poisonbench.report.keeping import destination, write_kept
from poisonbench.storage.store import Store
from tests.unit.tasks.test_layouts import encoded, paint

TRUST = ("poisonbench.",)
PLAIN = ("task.trusted=0", "task.test=0", "task.duplicates=allow")


def source(name, root, *words):
    return build(tree_of([f"task={name}", f"task.root={root}", *PLAIN, *words])["task"], TRUST, "task")


def rows(task, names: bool = True):
    """Return name, label and content of each training row, and of each test row."""
    named = [task.row_names[row] if names and task.row_names else "" for row in task.train.ids.tolist()]
    content = task.train.form.text if isinstance(task.train.form, Tokens) else Tensor.tolist  # a vocabulary has the words of the kept rows alone
    parts = [list(zip(data.labels.tolist(), map(content, data.inputs), strict=True)) for data in (task.train, task.test)]
    return list(zip(named, parts[0], strict=True)), parts[1]


def applied(tmp_path, name, root, drop, *words, names=True, moved=()):  # noqa: PLR0913  # a line for each case of a layout
    """Drop some rows, read the copy, and check that it has exactly the others; return the folder."""
    store, first = Store(tmp_path / "store"), source(name, root, *words)
    task, out = first.load(store), destination(first, str(tmp_path / "out"))
    before = {path: file_digest(path) for path in tmp_path.rglob("*") if path.is_file() and "store" not in path.parts}
    kept = write_kept(first, task, dict.fromkeys(drop, "spectral"), out, store)
    copy = source(name, kept.root, *(moved or words)).load(store)
    train, test = rows(task, names)
    assert rows(copy, names) == ([row for place, row in enumerate(train) if place not in drop], test)
    assert copy.class_names == task.class_names
    assert {path: file_digest(path) for path in before} == before
    lines = list(csv.reader(io.StringIO(kept.dropped.read_text())))
    assert lines == [["name", "label", "reason"], *([task.row_names[row], task.class_names[int(task.train.labels[row])], "spectral"] for row in drop)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    return out


def test_class_folders_keep_their_pictures_byte_for_byte(tmp_path):
    root = paint(tmp_path / "pets", "train/cat/0.png", "train/cat/1.jpg", "train/dog/2.png", "train/dog/3.png", "test/cat/4.png", "test/dog/5.png")
    (root / "README.md").write_text("words")
    (root / ".cache").mkdir()
    (root / ".cache" / "x").write_text("hidden")
    out = applied(tmp_path, "image_folder", root, [1, 2])
    found = sorted(str(path.relative_to(out / "pets")) for path in out.rglob("*") if path.is_file() and path.name != "dropped.csv")
    assert found == ["README.md", "test/cat/4.png", "test/dog/5.png", "train/cat/0.png", "train/dog/3.png"]
    assert (out / "pets" / "train" / "cat" / "0.png").read_bytes() == (root / "train" / "cat" / "0.png").read_bytes()


def test_metadata_keeps_its_columns_and_other_lines(tmp_path):
    root = paint(tmp_path / "pets", "0.png", "1.png", "more/2.png", "3.png")
    (root / "metadata.csv").write_bytes(b'file_name,caption,label\r\n0.png,"a ""cat""\r\nasleep",cat\r\n1.png,x,dog\r\nmore/2.png,,dog\r\n3.png,y,cat')
    out = applied(tmp_path, "image_folder", root, [1])
    kept = b'file_name,caption,label\r\n0.png,"a ""cat""\r\nasleep",cat\r\nmore/2.png,,dog\r\n3.png,y,cat'
    assert (out / "pets" / "metadata.csv").read_bytes() == kept
    assert not (out / "pets" / "1.png").exists()


def test_metadata_without_classes_follows_the_pictures(tmp_path):
    root = paint(tmp_path / "pets", "cat/0.png", "cat/1.png", "dog/2.png")
    (root / "metadata.jsonl").write_text("".join(json.dumps({"file_name": name, "caption": name}) + "\n" for name in ("cat/0.png", "cat/1.png", "dog/2.png")))
    out = applied(tmp_path, "image_folder", root, [0])
    assert [json.loads(line)["file_name"] for line in (out / "pets" / "metadata.jsonl").read_text().splitlines()] == ["cat/1.png", "dog/2.png"]


def test_a_table_and_a_list_outside_the_folder_keep_their_places(tmp_path):
    root = paint(tmp_path / "set" / "pets", "0.png", "1.png", "2.png", "3.png")
    (tmp_path / "set" / "lists").mkdir()
    table, tests = tmp_path / "set" / "lists" / "labels.tsv", tmp_path / "set" / "lists" / "test.txt"
    table.write_text("../pets/0.png\ta\n../pets/1.png\tb\n../pets/2.png\ta\n../pets/3.png\tb\n")
    tests.write_text("3.png\n")
    moved = (f"task.table={tmp_path}/out/lists/labels.tsv", f"task.test_list={tmp_path}/out/lists/test.txt")
    out = applied(tmp_path, "image_folder", root, [2], f"task.table={table}", f"task.test_list={tests}", moved=moved)
    assert (out / "lists" / "labels.tsv").read_text() == "../pets/0.png\ta\n../pets/1.png\tb\n../pets/3.png\tb\n"


def test_a_table_with_absolute_paths_is_refused(tmp_path):
    root = paint(tmp_path / "pets", "0.png", "1.png", "2.png")
    (root / "metadata.csv").write_text(f"file_name,label\n{root}/0.png,a\n{root}/1.png,b\n{root}/2.png,b\n")
    first, store = source("image_folder", root), Store(tmp_path / "store")
    with pytest.raises(DataError, match=r"make its paths relative"):
        write_kept(first, first.load(store), {1: "x"}, tmp_path / "out", store)
    assert not (tmp_path / "out").exists()


def test_pictures_without_labels_are_kept_as_well(tmp_path):
    applied(tmp_path, "image_folder", paint(tmp_path / "pets", "0.png", "1.png", "more/2.png"), [0], "task.unlabelled=true")


def test_parquet_keeps_columns_metadata_names_and_row_groups(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"]}}}}).encode(), b"mine": b"kept"}
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "README.md").write_text("words")
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        cells = [{"bytes": encoded(4 * number + value), "path": f"{4 * number + value}.png"} for value in range(4)]
        table = pa.table({"image": pa.array(cells, kind), "label": [0, 1, 0, 1], "age": pa.array([1, None, 3, 4], pa.int16())})
        pq.write_table(table.replace_schema_metadata(features), tmp_path / "set" / "data" / f"{name}.parquet", row_group_size=2, compression="zstd")
    out = applied(tmp_path, "parquet", tmp_path / "set", [0, 4, 5])
    new = pq.ParquetFile(out / "set" / "data" / "train-00000-of-00002.parquet")
    old = pq.ParquetFile(tmp_path / "set" / "data" / "train-00000-of-00002.parquet")
    assert new.schema_arrow.equals(old.schema_arrow, check_metadata=True)
    assert [new.metadata.row_group(group).num_rows for group in range(new.num_row_groups)] == [1, 2]
    assert new.metadata.row_group(0).column(2).compression == "ZSTD"
    assert new.read().column("age").to_pylist() == [None, 3, 4]
    assert (out / "set" / "data" / "test-00000-of-00001.parquet").read_bytes() == (tmp_path / "set" / "data" / "test-00000-of-00001.parquet").read_bytes()
    assert (out / "set" / "README.md").read_text() == "words"


def test_texts_in_csv_keep_line_ends_quotes_and_the_mark_of_utf_8(tmp_path):
    file, tests = tmp_path / "films.csv", tmp_path / "more.csv"
    file.write_bytes(b'\xef\xbb\xbfid;text;label\r\n1;"good\r\n""film""";yes\r\n\r\n2;bad film;no\r\n3;"fine";yes\r\n4;dull;no')
    tests.write_text("label;text\nno;a dull film\n")
    words = (f"task.test_file={tests}",)
    out = applied(tmp_path, "texts", file, [0], *words, names=False, moved=(f"task.test_file={tmp_path}/out/more.csv",))
    assert (out / "films.csv").read_bytes() == b'\xef\xbb\xbfid;text;label\r\n\r\n2;bad film;no\r\n3;"fine";yes\r\n4;dull;no'


def test_json_lines_of_texts_keep_their_lines(tmp_path):
    lines = [f'{{"text":"film {word}",  "label": {label}, "meta": [1]}}\n' for word, label in (("one", 0), ("two", 1), ("one", 0), ("two", 1))]
    (tmp_path / "films.jsonl").write_text("".join(lines))
    out = applied(tmp_path, "texts", tmp_path / "films.jsonl", [3], names=False)
    assert (out / "films.jsonl").read_text() == "".join(lines[:3])


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "tsv"])
def test_tables_of_numbers_are_kept(tmp_path, suffix):
    values = [{"a": number, "b": 0.5 * number, "label": "xy"[number % 2]} for number in range(6)]
    file = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(values), file)
    elif suffix == "jsonl":
        file.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    else:
        file.write_text("".join("\t".join(map(str, line)) + "\n" for line in (values[0], *(value.values() for value in values))))
    applied(tmp_path, "csv", file, [0, 5], names=False)


def test_an_empty_folder_is_filled_and_another_is_refused(tmp_path):
    root = paint(tmp_path / "pets", "cat/0.png", "cat/1.png", "dog/2.png")
    first, store = source("image_folder", root), Store(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    assert write_kept(first, first.load(store), {0: "x"}, destination(first, str(tmp_path / "empty")), store).root.is_dir()
    with pytest.raises(ConfigError, match=r"apply=.*empty: it exists and is no empty folder; name a new one"):
        destination(first, str(tmp_path / "empty"))
    for inside in (root, root / "out", tmp_path / "x" / ".." / "pets" / "cat"):
        with pytest.raises(ConfigError, match=r"this is the source or lies in it, task\.root=.*; name another folder"):
            destination(first, str(inside))


def test_a_folder_below_a_file_is_refused_before_anything_is_computed(tmp_path):
    root = paint(tmp_path / "pets", "cat/0.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"apply=.*out: .*file cannot be written; name a folder that can"):
        destination(source("image_folder", root), str(tmp_path / "file" / "out"))


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "lz4", "brotli", "zstd"])
def test_parquet_keeps_its_compression(tmp_path, codec):
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0, 4.0], "label": ["x", "y", "x", "y"]}), file, compression=codec)
    out = applied(tmp_path, "csv", file, [0], names=False)
    old, new = (pq.ParquetFile(path).metadata.row_group(0).column(0).compression for path in (file, out / "rows.parquet"))
    assert new == old


@pytest.mark.parametrize("name", ["digits", "blobs", "sentiment", "breast_cancer", "sms", "facts", "memory", "cifar10", "poisoned"])
def test_rows_without_files_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"rows of this task cannot be written back, because it generates them or reads a fixed set; leave apply out"):
        destination(build(tree_of([f"task={name}"])["task"], TRUST, "task"), str(tmp_path / "out"))


def test_a_class_that_would_lose_all_rows_is_named(tmp_path):
    root = paint(tmp_path / "pets", "cat/0.png", "cat/1.png", "dog/2.png")
    first, store = source("image_folder", root), Store(tmp_path / "store")
    with pytest.raises(DataError, match=r"all rows of the class dog are flagged, so pets is not written without them"):
        write_kept(first, first.load(store), {2: "x"}, tmp_path / "out", store)
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_nothing(tmp_path):
    root = paint(tmp_path / "pets", "cat/0.png", "cat/1.png", "dog/2.png")
    first, store = source("image_folder", root), Store(tmp_path / "store")
    task = first.load(store)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotWrite, match=r"cannot be written"):
        write_kept(first, task, {0: "x"}, tmp_path / "file" / "out", store)
    (root / "cat" / "1.png").rename(root / "cat" / "2.png")
    with pytest.raises(DataError, match=r"the files at .*pets changed since they were judged; repeat the audit"):
        write_kept(first, task, {0: "x"}, tmp_path / "out", store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pets", "store"]


def test_an_audit_writes_the_rows_that_no_filter_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [f"{number % 7},{number % 5},{'xy'[number % 2]}\n" for number in range(60)]
    (tmp_path / "rows.csv").write_text("a,b,label\n" + "".join(lines))
    words = ["audit", "task=csv", "task.root=rows.csv", "defense=random_drop", "threat.budget.rate=0.1", "threads=1"]
    assert entry([*words, "apply=rows.csv"]) == 2
    assert not (tmp_path / "results" / "audit").exists()
    assert entry([*words, "apply=out"]) == 0, capsys.readouterr().err
    dropped = [line.split(",")[0] for line in (tmp_path / "out" / "dropped.csv").read_text().splitlines()[1:]]
    assert dropped
    gone = {int(name.removeprefix("line ")) - 2 for name in dropped}
    assert (tmp_path / "out" / "rows.csv").read_text() == "a,b,label\n" + "".join(line for row, line in enumerate(lines) if row not in gone)
    assert "out/dropped.csv" in capsys.readouterr().out


def no_result(tmp_path, words, says, capsys):
    """Check that an audit with apply=out ends with one sentence, and that nothing is computed, written or left behind."""
    before = sorted(tmp_path.rglob("*"))
    assert entry(["audit", "threads=1", "apply=out", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("table", "says"), [
    ("file_name,caption,caption\n0.png,a,b\n", "metadata.csv has two columns named caption; rename one of them"),
    ("file_name,caption\n0.png\n", "metadata.csv cannot be read as a table (line 2 has 1 cells, and there are 2 columns)"),
    ('file_name,caption\n0.png,"a\n', "metadata.csv, line 2 cannot be read"),
])  # fmt: skip
def test_a_table_that_only_the_writing_reads_is_checked_before_the_audit(tmp_path, monkeypatch, capsys, table, says):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "pets", "0.png", "1.png", "2.png")
    (tmp_path / "pets" / "metadata.csv").write_text(table)
    no_result(tmp_path, ["task=image_folder", "task.root=pets", "task.unlabelled=true", "defense=near_duplicate"], says, capsys)


def test_absolute_paths_and_the_name_of_the_list_are_refused_before_the_audit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = paint(tmp_path / "pets", "0.png", "1.png", "2.png", "3.png")
    (root / "metadata.csv").write_text("file_name,label\n" + "".join(f"{root}/{number}.png,{'ab'[number % 2]}\n" for number in range(4)))
    no_result(tmp_path, ["task=image_folder", "task.root=pets", "defense=random_drop"], "make its paths relative", capsys)
    (tmp_path / "dropped.csv").write_text("a,label\n" + "".join(f"{number},{'xy'[number % 2]}\n" for number in range(9)))
    no_result(tmp_path, ["task=csv", "task.root=dropped.csv", "defense=random_drop"], "and so is the list of dropped rows; rename the source", capsys)


def test_files_that_lose_no_row_are_copied_byte_for_byte(tmp_path):
    (tmp_path / "set").mkdir()
    for part in range(2):
        pq.write_table(pa.table({"a": [1.0, 2.0, 3.0, 4.0], "label": ["x", "y", "x", "y"]}), tmp_path / "set" / f"train-{part}.parquet")
    out = applied(tmp_path, "csv", tmp_path / "set", [5], names=False)
    assert (out / "set" / "train-0.parquet").read_bytes() == (tmp_path / "set" / "train-0.parquet").read_bytes()
    assert pq.read_table(out / "set" / "train-1.parquet").column("a").to_pylist() == [1.0, 3.0, 4.0]


@pytest.mark.parametrize("word", ["task.limit=30", "task.test=0.5"])
def test_rows_that_nobody_judged_are_not_written_as_kept(tmp_path, monkeypatch, capsys, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a,label\n" + "".join(f"{number},{'xy'[number % 2]}\n" for number in range(60)))
    words = ["task=csv", "task.root=rows.csv", "defense=random_drop"]
    no_result(tmp_path, [*words, word], f"apply=out: with {word} not every row is judged", capsys)
    assert entry(["audit", "threads=1", "apply=out", *words, "task.trusted=0.2"]) == 0
    left = len((tmp_path / "out" / "rows.csv").read_text().splitlines()) - 1
    assert left == 60 - (len((tmp_path / "out" / "dropped.csv").read_text().splitlines()) - 1), "rows that the user calls clean are written"
