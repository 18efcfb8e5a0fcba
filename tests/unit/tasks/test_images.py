import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from poisonbench.core.errors import DataError
from poisonbench.core.files import DEPTH
from poisonbench.tasks.images import ImageFolder, TorchvisionSet
from poisonbench.tasks.parquet import Parquet

SPLIT = {"limit": None, "trusted": 0.0, "public": 0.0, "split_seed": 0, "duplicates": "allow"}


def picture(value: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, (value, value // 2, 0))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture
def folders(tmp_path):
    for part, count in (("train", 4), ("test", 2)):
        for kind, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                picture(100 * kind + number).save(tmp_path / "data" / part / name / f"{number}.png")
    return tmp_path / "data"


def write_parquet(path, values: list[int], *, names: list[str] | None = ("night", "day"), labels: list[int] | None = None, size=(4, 4)) -> None:
    path.parent.mkdir(exist_ok=True)
    cells = [{"bytes": encoded(picture(value, size)), "path": f"{value}.png"} for value in values]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"img": pa.array(cells, kind), "label": pa.array(labels or [value // 100 for value in values], pa.int64())})
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names or [])}}
    described = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    pq.write_table(table.replace_schema_metadata(described), path)


@pytest.fixture
def parquets(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1, 100, 101])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [2, 102])
    write_parquet(tmp_path / "data" / "test.parquet", [5, 105])
    return tmp_path / "data"


def test_a_folder_of_pictures_becomes_a_task(folders, store):
    task = ImageFolder(root=str(folders), size=None, grey=False, **SPLIT).load(store)
    assert task.class_names == ("cat", "dog")
    assert task.train.inputs.shape == (8, 3, 4, 4)
    assert task.train.labels.tolist() == [0] * 4 + [1] * 4
    assert task.train.inputs[5, :, 0, 0].tolist() == [101, 50, 0]
    assert len(task.test) == 4


def test_grey_and_scaled_pictures(folders, store):
    task = ImageFolder(root=str(folders), size=8, grey=True, **SPLIT).load(store)
    assert task.train.inputs.shape == (8, 1, 8, 8)


def test_pixels_are_decoded_once_and_again_when_a_file_changes(folders, store):
    source = ImageFolder(root=str(folders), size=None, grey=False, **SPLIT)
    source.load(store)
    source.load(store)
    assert [visit.made for visit in store.visits] == [True, False]
    picture(50).save(folders / "train" / "cat" / "0.png")
    assert source.load(store).train.inputs[0, 0, 0, 0] == 50
    assert store.visits[-1].made


def test_parquet_gives_pixels_labels_and_class_names(parquets, store):
    task = Parquet(root=str(parquets), size=None, grey=False, **SPLIT).load(store)
    assert task.class_names == ("night", "day")
    assert task.train.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert task.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 100, 101, 2, 102]


def test_a_file_that_moves_from_test_to_train_is_another_source(parquets, store):
    source = Parquet(root=str(parquets), size=None, grey=False, **SPLIT)
    write_parquet(parquets / "test-1.parquet", [7, 107])
    (parquets / "test.parquet").rename(parquets / "test-0.parquet")
    before = source.load(store)
    (parquets / "test-0.parquet").rename(parquets / "train-00002.parquet")
    after = source.load(store)
    assert (len(before.train), len(before.test), len(after.train), len(after.test)) == (6, 4, 8, 2)


def test_a_class_without_training_pictures_is_refused(folders, store):
    source = ImageFolder(root=str(folders), size=None, grey=False, **SPLIT)
    (folders / "train" / "newt").mkdir()
    with pytest.raises(DataError, match="newt contains no pictures of the class newt; remove the folder"):
        source.load(store)


def test_pictures_beside_the_folders_of_other_classes_are_refused_by_name(folders, store):
    (folders / "train" / "dog" / "poodle").mkdir()
    picture(7).save(folders / "train" / "dog" / "poodle" / "0.png")
    source = ImageFolder(root=str(folders), size=None, grey=False, **SPLIT)
    with pytest.raises(DataError, match=r"dog contains pictures \(0.png\) and folders \(poodle\); set task.class_depth=1 to make all of them one class"):
        source.load(store)
    task = dataclasses.replace(source, class_depth=1).load(store)
    assert task.class_names == ("cat", "dog")
    assert task.train.labels.tolist() == [0] * 4 + [1] * 5


def test_other_files_are_named_and_hidden_ones_left_out(folders, store, caplog):
    for name in ("cat/notes.txt", "cat/._0.png", "readme.md"):
        (folders / "train" / name).write_text("words")
    task = ImageFolder(root=str(folders), size=None, grey=False, **SPLIT).load(store)
    assert len(task.train) == 8
    told = " ".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "2 files left out, no pictures (cat/notes.txt, readme.md)" in told
    assert "._0.png" not in told


def test_transparent_pixels_are_counted(folders, store, caplog):
    Image.new("RGBA", (4, 4), (9, 9, 9, 255)).save(folders / "train" / "cat" / "opaque.png")
    Image.new("RGBA", (4, 4), (9, 9, 9, 100)).save(folders / "train" / "cat" / "glass.png")
    ImageFolder(root=str(folders), size=None, grey=False, **SPLIT).load(store)
    told = [record.getMessage() for record in caplog.records if "transparent" in record.getMessage()]
    assert len(told) == 1
    assert "1 pictures have transparent pixels" in told[0]
    assert "glass.png" in told[0]


def test_each_file_says_what_its_numbers_mean(parquets, store):
    """The test file numbers the classes the other way round."""
    write_parquet(parquets / "test.parquet", [5, 105], names=("day", "night"), labels=[1, 0])
    task = Parquet(root=str(parquets), size=None, grey=False, **SPLIT).load(store)
    assert task.class_names == ("night", "day")
    assert task.test.labels.tolist() == [0, 1]
    assert task.test.inputs[:, 0, 0, 0].tolist() == [5, 105]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("day", "dusk"), "has the classes day, dusk, the first training file has night, day"),
        (("day",), "has the classes day, the first training file has night, day"),
        (None, "row 0: the label is 0; the training rows have the classes night, day"),
    ],
)
def test_files_that_describe_other_classes_are_refused(parquets, store, names, says):
    write_parquet(parquets / "test.parquet", [5, 6], names=names, labels=[0, 0])
    with pytest.raises(DataError, match=rf"test\.parquet,? {says}"):
        Parquet(root=str(parquets), size=None, grey=False, **SPLIT).load(store)


@pytest.mark.parametrize("name", ["train_corrupted.parquet", "training.parquet", "train-old-00000-of-00001.parquet"])
def test_a_neighbour_that_begins_like_a_split_is_refused_by_name(parquets, store, name):
    write_parquet(parquets / name, [0, 100])
    with pytest.raises(DataError, match=rf"{name}: the name begins with train but is not that of a part"):
        Parquet(root=str(parquets), size=None, grey=False, **SPLIT).load(store)


@pytest.mark.parametrize(
    "name", ["train.parquet", "train-00000-of-00001.parquet", "train-00000-of-00001-0123456789abcdef.parquet", "train_0.parquet", "train1.parquet"]
)
def test_names_that_hubs_give_to_parts_are_read(tmp_path, store, name):
    write_parquet(tmp_path / "data" / name, [0, 1, 100, 101])
    write_parquet(tmp_path / "data" / "test.parquet", [5, 105])
    assert len(Parquet(root=str(tmp_path / "data"), size=None, grey=False, **SPLIT).load(store).train) == 4


def test_hidden_folders_are_no_classes_and_a_class_of_test_rows_alone_is_refused(folders, store):
    source = ImageFolder(root=str(folders), size=None, grey=False, **SPLIT)
    (folders / "train" / ".cache").mkdir()
    (folders / "test" / ".cache").mkdir()
    assert source.load(store).class_names == ("cat", "dog")
    (folders / "test" / "zebra").mkdir()
    assert source.load(store).class_names == ("cat", "dog")
    picture(3).save(folders / "test" / "zebra" / "3.png")
    with pytest.raises(DataError, match=r"the test rows have the classes zebra, the training rows do not"):
        source.load(store)


def test_parquet_without_a_description_numbers_its_classes(tmp_path, store):
    for part in ("train", "test"):
        write_parquet(tmp_path / "data" / f"{part}.parquet", [0, 100], names=None)
    assert Parquet(root=str(tmp_path / "data"), size=None, grey=False, **SPLIT).load(store).class_names == ("0", "1")


def test_a_known_set_reads_parquet_where_it_lies(parquets, store, monkeypatch):
    monkeypatch.setenv("DATA", str(parquets.parent))
    task = TorchvisionSet(name="cifar10", root="$DATA/data", download=False, **SPLIT).load(store)
    assert (task.name, len(task.train)) == ("cifar10", 6)


def test_a_known_set_reads_torchvisions_own_files(tmp_path, store):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, rows in (("train", 3), ("t10k", 2)):
        images = np.arange(rows * 28 * 28, dtype=np.uint64).astype(np.uint8)
        head = np.array([0x803, rows, 28, 28], dtype=">u4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = np.arange(rows, dtype=np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, rows], dtype=">u4").tobytes() + labels.tobytes())
    task = TorchvisionSet(name="mnist", root=str(tmp_path), download=False, **SPLIT).load(store)
    assert task.train.inputs.shape == (3, 1, 28, 28)
    assert task.train.labels.tolist() == [0, 1, 2]
    assert task.train.inputs.flatten()[:300].tolist() == [value % 256 for value in range(300)]


def broken_picture(root):
    (root / "train" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n broken")


def other_size(root):
    picture(3, (5, 4)).save(root / "train" / "dog" / "2.png")


def no_classes(root):
    for path in sorted((root / "train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def no_train(root):
    (root / "train").rename(root / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (broken_picture, "1.png cannot be read as an image"),
        (other_size, r"contains pictures of 2 sizes: 4x4 \(7, .*, 5x4 \(1, the first is .*2.png\); scale all with task.size=4"),
        (no_classes, "contains no class folders"),
        (no_train, "contains test, but no folder train"),
    ],
)
def test_damaged_folders_are_refused_in_words(folders, store, damage, says):
    damage(folders)
    with pytest.raises(DataError, match=says):
        ImageFolder(root=str(folders), size=None, grey=False, **SPLIT).load(store)


def torn(root):
    path = root / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def flipped(root):
    path = root / "train-00000-of-00002.parquet"
    content = bytearray(path.read_bytes())
    content[4:300] = bytes(296)
    path.write_bytes(content)


def stranger(root):
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), root / "train-00000-of-00002.parquet")


def beyond(root):
    write_parquet(root / "train-00000-of-00002.parquet", [0, 100], labels=[0, 9])


def incomplete(root):
    (root / "train-00001-of-00002.parquet").unlink()


def too_large(root):
    write_parquet(root / "train-00000-of-00002.parquet", [0, 100], labels=[0, 2**31])


def below(root):
    write_parquet(root / "train-00000-of-00002.parquet", [0, 100], labels=[0, -1])


def described(root, text):
    path = root / "train-00000-of-00002.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": text}), path)


def described_by_a_list(root):
    described(root, "[1]")


def described_too_deep(root):
    described(root, "[" * (DEPTH + 1) + "]" * (DEPTH + 1))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (torn, "cannot be read as parquet"),
        (flipped, "cannot be read as"),
        (stranger, "one struct with picture bytes"),
        (beyond, "the label is 9, but the metadata of the file names only 2 classes"),
        (incomplete, "contains 1 of 2 files, by the name of train-00000-of-00002.parquet; download the others"),
        (too_large, r"no label of 0 or more"),
        (below, "no label of 0 or more"),
        (described_by_a_list, "parquet with known metadata"),
        (described_too_deep, "too deep, or a number too long"),
    ],
)
def test_damaged_parquet_is_refused_in_words(parquets, store, damage, says):
    damage(parquets)
    with pytest.raises(DataError, match=says):
        Parquet(root=str(parquets), size=None, grey=False, **SPLIT).load(store)


def test_a_folder_that_is_missing_is_named(tmp_path, store):
    for root, says in ((None, "task.root=PATH"), (str(tmp_path / "nowhere"), "no folder at task.root")):
        with pytest.raises(DataError, match=says):
            Parquet(root=root, size=None, grey=False, **SPLIT).load(store)
    with pytest.raises(DataError, match=r"parquet or torchvision's files of cifar10 .*task\.download=true"):
        TorchvisionSet(name="cifar10", root=str(tmp_path), download=False, **SPLIT).load(store)


def test_pixels_of_the_cache_are_those_of_a_fresh_decoding(parquets, store):
    source = Parquet(root=str(parquets), size=None, grey=False, **SPLIT)
    assert torch.equal(source.load(store).train.inputs, source.load(store).train.inputs)
