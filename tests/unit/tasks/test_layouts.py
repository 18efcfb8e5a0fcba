"""Layouts that people have: each with its files made here, and one row in the table of docs/guide/vet.md."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from poisonbench import own_task
from poisonbench.cli import entry
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.tasks.images import ImageFolder
from poisonbench.tasks.parquet import Parquet

SPLIT = {"limit": None, "trusted": 0.0, "public": 0.0, "split_seed": 0}


def draw(value: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (value, 0, 0))


def paint(root: Path, *names: str) -> Path:
    """Write pictures, the n-th with the red value n."""
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw(value).save(root / name)
    return root


def loaded(root: Path, store, **words):
    return ImageFolder(root=str(root), size=None, grey=False, **SPLIT, **words).load(store)


def red(data) -> list[int]:
    return data.inputs[:, 0, 0, 0].tolist()


def told(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_classes_without_a_train_folder_are_training_rows_alone(tmp_path, store):
    task = loaded(paint(tmp_path / "pets", "cat/0.jpg", "cat/1.png", "dog/2.PNG"), store)
    assert task.class_names == ("cat", "dog")
    assert task.train.labels.tolist() == [0, 0, 1]
    assert task.row_names == ("cat/0.jpg", "cat/1.png", "dog/2.PNG")
    assert len(task.test) == 0


def test_test_rows_are_held_out_by_a_share_of_every_class(tmp_path, store):
    names = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10)]
    task = loaded(paint(tmp_path / "pets", *names), store, test=0.2)
    assert task.test.labels.tolist() == [0, 0, 1, 1]
    assert sorted(red(task.train) + red(task.test)) == list(range(20))
    assert [task.row_names[row] for row in task.train.ids.tolist()] == [names[value] for value in red(task.train)]
    with pytest.raises(ConfigError, match=r"task.test=1.5: give a share"):
        loaded(tmp_path / "pets", store, test=1.5)


def test_a_share_of_test_rows_beside_test_rows_is_refused(tmp_path, store):
    with pytest.raises(ConfigError, match=r"task.test=0.2: pets has 1 test rows already; leave task.test out"):
        loaded(paint(tmp_path / "pets", "train/cat/0.png", "test/cat/1.png"), store, test=0.2)


def test_nested_folders_are_classes_by_their_path_or_by_their_first_folders(tmp_path, store):
    root = paint(tmp_path / "pets", "cat/0.png", "dog/poodle/1.png", "dog/terrier/2.png")
    assert loaded(root, store).class_names == ("cat", "dog/poodle", "dog/terrier")
    merged = loaded(root, store, class_depth=1)
    assert merged.class_names == ("cat", "dog")
    assert merged.train.labels.tolist() == [0, 1, 1]
    with pytest.raises(ConfigError, match=r"task.class_depth=0: give 1 or more"):
        loaded(root, store, class_depth=0)


def test_a_folder_that_leads_back_to_itself_is_refused(tmp_path, store):
    root = paint(tmp_path / "pets", "cat/0.png", "dog/poodle/1.png")
    (root / "dog" / "again").symlink_to(root / "dog")
    with pytest.raises(DataError, match="again is a link to a folder above it"):
        loaded(root, store)


def test_numbers_as_folders_are_classes_in_the_order_of_their_values(tmp_path, store):
    task = loaded(paint(tmp_path / "digits", *(f"{kind}/{kind}.png" for kind in range(12))), store)
    assert task.class_names == tuple(map(str, range(12)))
    assert sorted(zip(task.train.labels.tolist(), red(task.train), strict=True)) == [(kind, kind) for kind in range(12)]


def test_what_lies_beside_the_splits_is_named(tmp_path, store, caplog):
    root = paint(tmp_path / "pets", "train/cat/0.png", "test/cat/1.png", "val/cat/2.png", ".cache/3.png")
    (root / "train" / "cat" / "._0.png").write_text("what macOS adds")
    (root / "readme.md").write_text("words")
    assert red(loaded(root, store).train) == [0]
    assert "2 files left out, beside the splits (readme.md, val)" in told(caplog)


def test_pictures_in_no_class_are_refused(tmp_path, store):
    with pytest.raises(DataError, match=r"contains pictures outside class folders \(0.png\); name them <class>/<name>.png, or name a table"):
        loaded(paint(tmp_path / "pets", "0.png", "1.png"), store)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\n0.png,dog\nmore/1.png,cat\n"),
        ("metadata.jsonl", '{"file_name": "0.png", "label": "dog"}\n{"file_name": "more/1.png", "label": "cat", "caption": null}\n'),
    ],
)
def test_metadata_beside_the_pictures_names_their_classes(tmp_path, store, name, text):
    root = paint(tmp_path / "pets", "0.png", "more/1.png")
    (root / name).write_text(text)
    task = loaded(root, store)
    assert task.class_names == ("cat", "dog")
    assert task.train.labels.tolist() == [1, 0]
    assert task.row_names == ("0.png", "more/1.png")


def test_metadata_in_each_split_names_its_pictures(tmp_path, store):
    root = paint(tmp_path / "pets", "train/0.png", "train/1.png", "test/2.png")
    (root / "train" / "metadata.csv").write_text("file_name,label\n0.png,9\n1.png,10\n")
    (root / "test" / "metadata.csv").write_text("file_name,label\n2.png,10\n")
    task = loaded(root, store)
    assert task.class_names == ("9", "10")
    assert (task.train.labels.tolist(), task.test.labels.tolist()) == ([0, 1], [1])


def test_metadata_without_classes_leaves_them_to_the_folders(tmp_path, store, caplog):
    root = paint(tmp_path / "pets", "cat/0.png", "dog/1.png")
    (root / "metadata.csv").write_text("file_name,caption\ncat/0.png,a cat\n")
    assert loaded(root, store).class_names == ("cat", "dog")
    assert "files left out, no pictures (metadata.csv)" in told(caplog)


@pytest.mark.parametrize(
    "text",
    [
        "file,label\n0.png,dog\n1.png,cat\n",
        "0.png,dog\n1.png,cat\n",
        "name\tbreed\timage\n0.png\tdog\t0.png\n1.png\tcat\t1.png\n",
        "\ufeffimage,class\r\n0.png,dog\r\n1.png,cat\r\n",
    ],
)
def test_a_table_of_file_and_label_with_or_without_a_header(tmp_path, store, text):
    root = paint(tmp_path / "pets", "0.png", "1.png", "2.png")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    task = loaded(root, store, table=str(tmp_path / "labels.csv"), label="breed" if "breed" in text else None)
    assert task.class_names == ("cat", "dog")
    assert task.train.labels.tolist() == [1, 0]


def test_pictures_that_no_table_lists_are_named(tmp_path, store, caplog):
    root = paint(tmp_path / "pets", "0.png", "1.png", "2.png")
    (root / "labels.csv").write_text("0.png,dog\n1.png,cat\n")
    loaded(root, store, table="labels.csv")
    assert "1 files left out, listed by no table (2.png)" in told(caplog)


def test_a_line_of_json_may_leave_its_split_out(tmp_path, store):
    root = paint(tmp_path / "pets", "0.png", "1.png", "2.png")
    lines = (
        {"file_name": "0.png", "label": "a", "split": "train"},
        {"file_name": "1.png", "label": "a", "split": "test"},
        {"file_name": "2.png", "label": "a"},
    )
    (root / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    task = loaded(root, store)
    assert (red(task.train), red(task.test)) == ([0, 2], [1])


def test_a_column_names_the_splits(tmp_path, store, caplog):
    root = paint(tmp_path / "pets", *(f"{value}.png" for value in range(4)))
    (root / "labels.csv").write_text("file,label,split\n0.png,a,train\n1.png,b,train\n2.png,b,test\n3.png,a,val\n")
    task = loaded(root, store, table="labels.csv")
    assert (red(task.train), red(task.test)) == ([0, 1], [2])
    assert "1 files left out, of the split val (3.png)" in told(caplog)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,label\n0.png,a\n9.png,b\n", r"row 2: no picture '9.png'; correct or remove the row"),
        ("file,label\n0.png,\n", r"row 1: no class"),
        ("file,label\n0.png,a\n./0.png,a\n", r"row 2: 0.png is listed twice; remove one of the rows"),
        ("file,label\n0.png,a\n./0.png,b\n", r"row 2: 0.png is listed with the labels a and b; keep the row with the right one"),
        ("file,label,split\n0.png,a,train\n0.png,a,test\n", r"row 2: 0.png is listed in the splits train and test; remove one of the rows"),
        ("file,label\n../outside.png,a\n", r"row 1: the picture '../outside.png' lies outside .*pets; move it there"),
        ("file,label,label\n0.png,a,b\n", r"has two columns named label; rename one of them"),
        ("file,label,split\n0.png,a,third\n", r"contains no pictures to train on"),
        ("file,breed\n0.png,a\n", r"has the columns file, breed; name one with task.label=COLUMN"),
        ("file,label,class\n0.png,a,b\n", r"has the columns file, label, class; name one with task.label=COLUMN"),
        ("file,label\n0.png,a,b,c\n", r"cannot be read as a table"),
        ("", r"holds the columns of an empty table|columns of an empty table"),
    ],
)
def test_tables_that_say_too_little_are_refused(tmp_path, store, text, says):
    root = paint(tmp_path / "pets", "0.png")
    paint(tmp_path, "outside.png")
    (root / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        loaded(root, store, table="labels.csv")


def test_metadata_that_contradicts_class_folders_is_refused_unless_it_is_named(tmp_path, store):
    root = paint(tmp_path / "pets", "cat/0.png", "dog/1.png", "dog/2.png")
    (root / "metadata.csv").write_text("file_name,label\ncat/0.png,cat\ndog/1.png,dog\ndog/2.png,cat\n")
    says = r"metadata.csv, row 3: dog/2.png has the class cat, but its folder is named like the class dog; correct one of them, or name the table"
    with pytest.raises(DataError, match=says):
        loaded(root, store)
    assert loaded(root, store, table="metadata.csv").train.labels.tolist() == [0, 1, 0]


def test_folders_that_are_no_classes_of_the_metadata_do_not_matter(tmp_path, store):
    root = paint(tmp_path / "pets", "monday/0.png", "friday/1.png")
    (root / "metadata.csv").write_text("file_name,label\nmonday/0.png,cat\nfriday/1.png,dog\n")
    assert loaded(root, store).class_names == ("cat", "dog")


def test_two_metadata_files_that_list_one_picture_are_refused(tmp_path, store):
    root = paint(tmp_path / "pets", "train/0.png", "train/1.png")
    (root / "metadata.csv").write_text("file_name,label\ntrain/0.png,cat\n")
    (root / "train" / "metadata.csv").write_text("file_name,label\n0.png,dog\n1.png,cat\n")
    with pytest.raises(DataError, match=r"train/metadata.csv, row 1: train/0.png is listed with the labels cat and dog"):
        loaded(root, store)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("metadata.jsonl", '{"file_name": "0.png", "label": "a"}\n{"file_name": "1.png"\n', "metadata.jsonl, line 2 cannot be read as a JSON object"),
        ("metadata.csv", "file_name,label\n0.png,a\n0.png,b\n", "metadata.csv, row 2: 0.png is listed with the labels a and b"),
        ("metadata.csv", "file_name,label\n0.png,a\n7.png,b\n", "metadata.csv, row 2: no picture '7.png'"),
        ("metadata.csv", "file_name,label,split\n0.png,a,train\n0.png,a,test\n", "0.png is listed in the splits train and test"),
    ],
)
def test_bad_metadata_ends_an_audit_before_anything_is_written(tmp_path, monkeypatch, capsys, name, text, says):  # noqa: PLR0913
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "pets", "0.png", "1.png")
    (tmp_path / "pets" / name).write_text(text)
    assert entry(["audit", "task=image_folder", "task.root=pets", "defense=knn_outlier", "apply=out"]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"]


def test_words_about_tables_and_folders_act_or_are_refused(tmp_path, store):
    root = paint(tmp_path / "pets", "cat/0.png")
    with pytest.raises(ConfigError, match=r"task.label=breed has no effect, because there is no table; name one with task.table=FILE"):
        loaded(root, store, label="breed")
    with pytest.raises(DataError, match=r"task.table=labels.csv: no such file in the working directory or in"):
        loaded(root, store, table="labels.csv")
    (root / "labels.csv").write_text("cat/0.png,cat\n")
    with pytest.raises(ConfigError, match=r"task.class_depth=1 has no effect, because labels.csv names the classes"):
        loaded(root, store, table="labels.csv", class_depth=1)


@pytest.mark.parametrize("lines", ["cat/1.png\ndog/3.png\n", "cat/1\n\n./dog/3\n"])
def test_a_list_names_the_test_rows(tmp_path, store, lines):
    root = paint(tmp_path / "images", "cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png")
    (tmp_path / "test.txt").write_text(lines)
    task = loaded(root, store, test_list=str(tmp_path / "test.txt"))
    assert (red(task.train), red(task.test)) == ([0, 2], [1, 3])
    assert task.row_names == ("cat/0.png", "dog/2.png")


def test_a_list_that_names_no_picture_is_refused(tmp_path, store):
    root = paint(tmp_path / "images", "cat/0.png", "cat/1.png")
    (root / "test.txt").write_text("cat/1\ncat/7\n")
    with pytest.raises(DataError, match=r"task.test_list=test.txt: 1 lines name no picture of .*images \(cat/7\)"):
        loaded(root, store, test_list="test.txt")


def test_all_pictures_that_cannot_be_read_are_listed(tmp_path, store, caplog):
    root = paint(tmp_path / "pets", "cat/0.png", "cat/1.png", "dog/2.png")
    for name in ("cat/1.png", "dog/2.png"):
        (root / name).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2 pictures cannot be read; each is listed above"):
        loaded(root, store)
    assert [line.split(" cannot be read")[0].replace(f"{root}/", "") for line in told(caplog).splitlines()] == [
        "1 of 2 unreadable: cat/1.png",
        "2 of 2 unreadable: dog/2.png",
    ]


def test_pictures_of_16_bits_and_with_palettes_are_counted(tmp_path, store, caplog):
    root = paint(tmp_path / "pets", "cat/0.png", "dog/1.png")
    Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)).save(root / "cat" / "2.png")
    draw(200).quantize(4).save(root / "dog" / "3.png")
    assert red(loaded(root, store).train) == [0, 255, 1, 200]
    assert "1 pictures have 16 bits per channel, which are divided by 257 to fit 8 (the first is" in told(caplog)
    assert "1 pictures use a palette" in told(caplog)


def encoded(value: int) -> bytes:
    stream = io.BytesIO()
    draw(value).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, columns: dict[str, object], classes: dict[str, list[str]] | None = None, *, count: int = 2) -> None:
    """Write a parquet file of the pictures 0, 1, ... beside `columns`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [{"bytes": encoded(value), "path": None} for value in range(count)]} | columns)
    features = {name: {"_type": "ClassLabel", "names": names} for name, names in (classes or {}).items()}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})} if classes else {}), path)


def parquet(root: Path, store, **words):
    return Parquet(root=str(root), size=None, grey=False, **{**SPLIT, "duplicates": "allow"}, **words).load(store)


@pytest.mark.parametrize(
    "names", [("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), ("default/train/0000.parquet", "default/test/0000.parquet")]
)
def test_a_cloned_folder_of_a_hub_is_read(tmp_path, store, names, caplog):
    for name in names:
        write(tmp_path / "set" / name, {"label": [0, 1]})
    (tmp_path / "set" / "README.md").write_text("words")
    task = parquet(tmp_path / "set", store)
    assert (len(task.train), len(task.test)) == (2, 2)
    assert "1 files left out, no parquet (README.md)" in told(caplog)


def test_several_sets_of_one_hub_folder_are_named(tmp_path, store):
    for name in ("full", "small"):
        write(tmp_path / "set" / name / "train-00000-of-00001.parquet", {"label": [0, 1]})
    with pytest.raises(DataError, match=r"contains several sets of parquet files, in .*full, .*small; set task.root to one of them"):
        parquet(tmp_path / "set", store)


def test_a_lone_file_of_any_name_holds_training_rows(tmp_path, store):
    write(tmp_path / "set" / "pictures.parquet", {"label": [0, 1]})
    task = parquet(tmp_path / "set", store)
    assert (len(task.train), len(task.test)) == (2, 0)


def test_columns_of_other_names_are_chosen(tmp_path, store):
    write(tmp_path / "set" / "train.parquet", {"thumbnail": [encoded(7), encoded(8)], "breed": [0, 1], "age": [3, 4]})
    with pytest.raises(DataError, match=r"one struct with picture bytes, or bytes is needed; set task.image to image or thumbnail"):
        parquet(tmp_path / "set", store)
    with pytest.raises(DataError, match=r"one column of classes is needed; set task.label to breed or age"):
        parquet(tmp_path / "set", store, image="thumbnail")
    task = parquet(tmp_path / "set", store, image="thumbnail", label="breed")
    assert (red(task.train), task.train.labels.tolist()) == ([7, 8], [0, 1])
    with pytest.raises(DataError, match=r"task.label=bread: .* has the columns image, thumbnail, breed, age; name one of them"):
        parquet(tmp_path / "set", store, image="thumbnail", label="bread")


def test_of_two_label_columns_one_is_chosen_with_its_own_names(tmp_path, store):
    classes = {"fine_label": ["bee", "fly", "oak"], "coarse_label": ["insect", "tree"]}
    write(tmp_path / "set" / "train.parquet", {"fine_label": [2, 0], "coarse_label": [1, 0]}, classes)
    with pytest.raises(DataError, match=r"set task.label to fine_label or coarse_label"):
        parquet(tmp_path / "set", store)
    task = parquet(tmp_path / "set", store, label="coarse_label")
    assert task.class_names == ("insect", "tree")
    assert task.train.labels.tolist() == [1, 0]
    assert parquet(tmp_path / "set", store, label="fine_label").class_names == ("bee", "fly", "oak")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array(["dog", "cat"]), ("cat", "dog")),
        (pa.array(["dog", "cat"]).dictionary_encode(), ("cat", "dog")),
        (pa.array(["10", "9"]), ("9", "10")),
        (pa.array([True, False]), ("False", "True")),
    ],
)
def test_text_and_truth_values_are_labels(tmp_path, store, labels, names):
    write(tmp_path / "set" / "train.parquet", {"label": labels})
    write(tmp_path / "set" / "test.parquet", {"label": labels[:1]}, count=1)
    task = parquet(tmp_path / "set", store)
    assert task.class_names == names
    assert (task.train.labels.tolist(), task.test.labels.tolist()) == ([1, 0], [1])


def test_a_test_label_that_no_training_row_has_is_refused(tmp_path, store):
    write(tmp_path / "set" / "train.parquet", {"label": ["dog", "cat"]})
    write(tmp_path / "set" / "test.parquet", {"label": ["dog", "newt"]})
    with pytest.raises(DataError, match=r"test.parquet, row 1: the label is newt; the training rows have the classes cat, dog"):
        parquet(tmp_path / "set", store)


def test_bytes_without_a_struct_are_pictures(tmp_path, store):
    root = tmp_path / "set"
    root.mkdir()
    pq.write_table(pa.table({"img": [encoded(3), encoded(4)], "label": [0, 1]}), root / "train.parquet")
    assert red(parquet(root, store).train) == [3, 4]


@pytest.mark.parametrize(("column", "words"), [("image_id", {}), ("serial", {"id": "serial"})])
def test_a_column_names_the_rows(tmp_path, store, column, words):
    write(tmp_path / "set" / "train.parquet", {column: [71, 72], "label": [0, 1]})
    assert parquet(tmp_path / "set", store, **words).row_names == ("71", "72")


def test_a_file_without_bytes_is_refused(tmp_path, store):
    (tmp_path / "set").mkdir()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}], kind), "label": [0]}), tmp_path / "set" / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet, row 0: no picture bytes"):
        parquet(tmp_path / "set", store)


PIXELS = (np.arange(4 * 3 * 4 * 4) % 256).reshape(4, 3, 4, 4).astype(np.uint8)
LABELS = [0, 1, 0, 1]


class Pairs:
    """What torchvision's data sets look like."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 4

    def __getitem__(self, row):
        picture = PIXELS[row]
        return (Image.fromarray(picture.transpose(1, 2, 0)) if self.kind == "picture" else torch.tensor(picture)), LABELS[row]


@pytest.mark.parametrize(
    "train",
    [
        (PIXELS, LABELS),
        [PIXELS, np.array(LABELS)],
        (torch.tensor(PIXELS), tuple(LABELS)),
        (PIXELS.tolist(), LABELS),
        (PIXELS / 255, np.array(LABELS, dtype=np.int32)),
        (torch.tensor(PIXELS) / 255, torch.tensor(LABELS, dtype=torch.uint8)),
        Pairs("picture"),
        Pairs("tensor"),
    ],
    ids=["array and list", "list of arrays", "tensor and tuple", "lists", "float64 in 0..1", "float32 in 0..1", "PIL pairs", "tensor pairs"],
)
def test_own_rows_come_as_people_have_them(train):
    task = own_task(train=train, test=None, trusted=0.0)
    assert task.train.inputs.dtype == torch.uint8
    assert torch.equal(task.train.inputs, torch.tensor(PIXELS))
    assert task.train.labels.tolist() == LABELS
    assert len(task.test) == 0


def test_grey_pictures_get_their_channel_and_features_their_type():
    assert own_task(train=(PIXELS[:, 0], LABELS), test=None).train.inputs.shape == (4, 1, 4, 4)
    assert own_task(train=(np.eye(4), LABELS), test=None).train.inputs.dtype == torch.float32


def test_text_labels_are_classes_of_both_splits():
    task = own_task(train=(PIXELS, ["dog", "cat", "dog", "cat"]), test=(255 - PIXELS, ["cat", "cat", "dog", "dog"]), trusted=0.0)
    assert task.class_names == ("cat", "dog")
    assert (task.train.labels.tolist(), task.test.labels.tolist()) == ([1, 0, 1, 0], [0, 0, 1, 1])
    with pytest.raises(DataError, match="no training row has the label newt"):
        own_task(train=(PIXELS, ["dog", "cat", "dog", "cat"]), test=(255 - PIXELS, ["cat", "cat", "dog", "newt"]))


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ((PIXELS / 127.5 - 1, LABELS), r"pixels are floats from -1 to 0.498; give floats in 0..1"),
        ((PIXELS * 1.0, LABELS), r"pixels are floats from 0 to 191; give floats in 0..1"),
        ((np.zeros((4, 5, 5, 3), np.uint8), LABELS), r"look like \(rows, height, width, channels\)"),
        ((PIXELS, LABELS, LABELS), r"a tuple of 3 items; give two"),
        (([PIXELS[0], PIXELS[1][:, :2]], LABELS[:2]), r"cannot be read as an array"),
        (7, r"cannot be read as a data set of \(picture, label\)"),
        ((PIXELS, LABELS[:3]), r"4 inputs, labels of shape \(3,\)"),
        ((PIXELS, [0.5, 1.0, 0.0, 1.0]), r"labels are float64; give integers from 0, or text"),
    ],
)
def test_own_rows_that_say_two_things_are_refused(train, says):
    with pytest.raises(DataError, match=says):
        own_task(train=train, test=None)


@pytest.mark.parametrize(("training", "testing"), [("Training", "Testing"), ("TRAIN", "test"), ("train", "Val")])
def test_splits_are_found_in_whatever_case_they_are_written(tmp_path, store, training, testing):
    task = loaded(paint(tmp_path / "pets", f"{training}/cat/0.png", f"{training}/dog/1.png", f"{testing}/cat/2.png"), store)
    assert (task.class_names, red(task.train), red(task.test)) == (("cat", "dog"), [0, 1], [2])


@pytest.mark.parametrize(
    "names", [("data/train/cat/0.png", "data/test/cat/1.png"), ("seg_train/cat/0.png", "seg_test/cat/1.png"), ("cat/test/0.png", "cat/train/1.png")]
)
def test_splits_below_the_root_are_refused_rather_than_trained_on(tmp_path, store, names):
    with pytest.raises(DataError, match=r"looks like a split; set task.root to the folder that contains train and test"):
        loaded(paint(tmp_path / "pets", *names), store)


def test_a_table_finds_the_split_in_any_folder_of_a_path(tmp_path, store):
    root = paint(tmp_path / "pets", "images/train/0.png", "images/Test/1.png", "train/test/2.png")
    (root / "metadata.csv").write_text("file_name,label\nimages/train/0.png,a\nimages/Test/1.png,a\n")
    task = loaded(root, store)
    assert (red(task.train), red(task.test)) == ([0], [1])
    (root / "metadata.csv").write_text("file_name,label\ntrain/test/2.png,a\n")
    with pytest.raises(DataError, match=r"is in folders of the splits test and train; write the right one into a column named split"):
        loaded(root, store)


@pytest.mark.parametrize(
    "text", ["file;label\n0.png;dog\n1.png;cat\n", ",file,label\n0,0.png,dog\n1,1.png,cat\n", '"file","label"\n"0.png","dog"\n"1.png","cat"\n']
)
def test_tables_of_other_programs_are_read(tmp_path, store, text):
    root = paint(tmp_path / "pets", "0.png", "1.png")
    (root / "labels.csv").write_text(text)
    assert loaded(root, store, table="labels.csv").train.labels.tolist() == [1, 0]


def test_a_table_without_a_header_may_name_splits(tmp_path, store):
    root = paint(tmp_path / "pets", "0.png", "1.png")
    (root / "labels.csv").write_text("0.png,a,train\n1.png,a,test\n")
    task = loaded(root, store, table="labels.csv")
    assert (red(task.train), red(task.test)) == ([0], [1])


def test_a_list_that_names_two_pictures_by_one_line_or_none_is_refused(tmp_path, store):
    root = paint(tmp_path / "images", "cat/0.png", "cat/0.jpg", "cat/1.png")
    (root / "test.txt").write_text("cat/0\n")
    with pytest.raises(DataError, match=r"1 lines name no picture .*\(cat/0\); write <class>/<name>.<suffix>"):
        loaded(root, store, test_list="test.txt")
    (root / "test.txt").write_text("\n")
    with pytest.raises(DataError, match=r"task.test_list=test.txt names no picture"):
        loaded(root, store, test_list="test.txt")


def test_files_of_other_kinds_and_what_systems_add_make_no_class(tmp_path, store):
    root = paint(tmp_path / "pets", "cat/0.ppm", "__MACOSX/cat/1.png")
    assert loaded(root, store).class_names == ("cat",)
    (root / "dog").mkdir()
    (root / "dog" / "1.heic").write_text("a kind that is not read")
    with pytest.raises(DataError, match=r"dog contains no pictures of the class dog; 1.heic cannot be read as a picture, convert it"):
        loaded(root, store)


def test_a_column_called_label_and_another_with_names_have_to_be_chosen_from(tmp_path, store):
    write(tmp_path / "set" / "train.parquet", {"label": [0, 1], "side": [1, 0]}, {"side": ["left", "right"]})
    with pytest.raises(DataError, match=r"set task.label to label or side"):
        parquet(tmp_path / "set", store)
    assert parquet(tmp_path / "set", store, label="label").class_names == ("0", "1")


def test_a_file_that_holds_all_splits_is_refused(tmp_path, store):
    write(tmp_path / "set" / "pictures.parquet", {"label": [0, 1], "split": ["train", "test"]})
    with pytest.raises(DataError, match=r"has a column split; write each split into its own file"):
        parquet(tmp_path / "set", store)


def test_text_labels_are_stripped_and_empty_ones_refused(tmp_path, store):
    write(tmp_path / "set" / "train.parquet", {"label": ["cat", " cat"]})
    assert parquet(tmp_path / "set", store).class_names == ("cat",)
    write(tmp_path / "set" / "train.parquet", {"label": ["cat", " "]})
    with pytest.raises(DataError, match=r"row 1: no picture bytes, or no label"):
        parquet(tmp_path / "set", store)


def test_numbers_that_nothing_names_are_the_classes_that_occur(tmp_path, store):
    write(tmp_path / "set" / "train.parquet", {"label": [10, 9]})
    task = parquet(tmp_path / "set", store)
    assert (task.class_names, task.train.labels.tolist()) == (("9", "10"), [1, 0])


def test_a_described_class_without_training_rows_is_named(tmp_path, store, caplog):
    write(tmp_path / "set" / "train.parquet", {"label": [0, 2]}, {"label": ["bee", "fly", "oak"]})
    parquet(tmp_path / "set", store)
    assert "1 classes have no training rows (the first is fly)" in told(caplog)


def test_splits_in_folders_of_their_own_are_one_set(tmp_path, store):
    for split in ("train", "test"):
        write(tmp_path / "set" / split / f"{split}-00000-of-00001.parquet", {"label": [0, 1]})
    task = parquet(tmp_path / "set", store)
    assert (len(task.train), len(task.test)) == (2, 2)


def test_rows_without_a_name_among_others_are_named_by_their_number(tmp_path, store):
    (tmp_path / "set").mkdir()
    cells = [{"bytes": encoded(value), "path": path} for value, path in enumerate(("a.png", None))]
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "set" / "train.parquet")
    assert parquet(tmp_path / "set", store).row_names == ("a.png", "row 1")


class Palettes(Pairs):
    """Pictures that hold numbers into a palette."""

    def __init__(self):
        super().__init__("palette")

    def __getitem__(self, row):
        return draw(200 + row).quantize(4), LABELS[row]


def test_pairs_of_palettes_are_read_by_their_colours_and_counted(caplog):
    task = own_task(train=Palettes(), test=None, trusted=0.0)
    assert red(task.train) == [200, 201, 202, 203]
    assert task.train.inputs.shape == (4, 3, 4, 4)
    assert "4 pictures use a palette" in told(caplog)


@pytest.mark.parametrize("labels", [np.array(["b", "a", "b", "a"], dtype=object), np.array(["b", "a", "b", "a"])])
def test_text_labels_of_any_type_are_classes(labels):
    assert own_task(train=(PIXELS, labels), test=None, trusted=0.0).train.labels.tolist() == [1, 0, 1, 0]


def test_whole_numbers_of_any_type_are_labels_and_leave_no_class_empty():
    assert own_task(train=(PIXELS, np.array(LABELS, dtype=np.uint16)), test=None, trusted=0.0).train.labels.dtype == torch.int64
    with pytest.raises(DataError, match="the largest label is 5, but no training row has 1; number the classes from 0 without a gap"):
        own_task(train=(PIXELS, [0, 5, 0, 5]), test=None)
    with pytest.raises(DataError, match="the largest label is 2, but no training row has 0"):
        own_task(train=(PIXELS, [1, 2, 1, 2]), test=None)
    with pytest.raises(DataError, match="give both as text, or both as numbers"):
        own_task(train=(PIXELS, ["1", "2", "1", "2"]), test=(255 - PIXELS, [1, 1, 0, 1]))


def test_own_rows_may_hold_test_rows_out():
    task = own_task(train=(np.concatenate([PIXELS, 255 - PIXELS]), LABELS * 2), test=None, trusted=0.0, held_out=0.25)
    assert (len(task.train), task.test.labels.tolist()) == (6, [0, 1])
