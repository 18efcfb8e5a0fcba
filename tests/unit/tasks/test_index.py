"""Web indexes in the layouts of img2dataset: what is read, which digest a row promises, and every mistake as one sentence."""

import dataclasses
import hashlib
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from poisonbench.cli import entry
from poisonbench.config.build import build
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from poisonbench.storage.store import Store
from poisonbench.tasks.captions import Kinds

CAPTIONS = ["A dog, not a cat!", "the cat", "nothing at all", "a cat fish"]
HOSTS = ["b.example", "a.example", "b.example", "c.example"]


def encoded(value, kind="PNG", size=4):
    """Bytes of a picture of one colour, which PNG keeps exactly."""
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (value, 2 * value, 3)).save(stream, kind)
    return stream.getvalue()


PICTURES = [encoded(value) for value in range(4)]


def columns(algorithm="sha256"):
    return {
        "url": [f"https://{host}/{number}.png" for number, host in enumerate(HOSTS)],
        "caption": CAPTIONS,
        "key": [f"{number:09}" for number in range(4)],
        "status": ["success"] * 4,
        "error_message": pa.array([None] * 4, pa.string()),
        "width": [4] * 4,
        algorithm: [hashlib.new(algorithm, picture).hexdigest() for picture in PICTURES],
    }


def without(table, *names):
    return {name: column for name, column in table.items() if name not in names}


def packed(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1700000000.5
            tar.addfile(info, io.BytesIO(content))


def files(pictures=PICTURES):
    """The members of a shard as img2dataset writes them."""
    named = {f"{number:09}": content for number, content in enumerate(pictures)}
    return {f"{key}.{suffix}": value for key, content in named.items() for suffix, value in (("png", content), ("txt", b"x"), ("json", b"{}"))}


def tar_shard(root, table=None, members=None):
    root.mkdir(exist_ok=True)
    pq.write_table(pa.table(table or columns()), root / "00000.parquet")
    packed(root / "00000.tar", files() if members is None else members)
    (root / "00000_stats.json").write_text("{}")
    return root


def folder_shard(root):
    (root / "00000").mkdir(parents=True)
    pq.write_table(pa.table(columns()), root / "00000.parquet")
    for name, content in files().items():
        (root / "00000" / name).write_bytes(content)
    return root


def column_shard(root):
    root.mkdir()
    pq.write_table(pa.table({**columns(), "jpg": PICTURES}), root / "00000.parquet")
    return root


WORDS = ("task=index", "task.classes=[cat,dog]", "task.trusted=0", "task.test=0", "seed=100")


def task(root, *words):
    return assemble(tree_of([*WORDS, f"task.root={root}", *words]), Store(root.parent / "store")).task


def told(caplog):
    return "\n".join(record.getMessage() for record in caplog.records)


def pixel_digest(row):
    return list(hashlib.sha256(row.contiguous().numpy().tobytes()).digest())


@pytest.mark.parametrize("make", [tar_shard, folder_shard, column_shard])
def test_every_layout_gives_the_same_rows(tmp_path, make):
    found = task(make(tmp_path / "web"))
    assert found.class_names == ("cat", "dog", "no class")
    assert found.train.labels.tolist() == [1, 0, 2, 0]
    assert found.row_names == tuple(columns()["url"])
    assert found.train.inputs[:, :, 0, 0].tolist() == [[value, 2 * value, 3] for value in range(4)]
    caption, domain, digest = (found.train.extra[name] for name in ("caption", "domain", "sha256"))
    form = found.train.schema["caption"].form
    assert [form.decode(row) for row in caption] == ["a dog , not a cat !", "the cat", "nothing at all", "a cat fish"]
    assert caption.shape == (4, 32)
    assert domain.tolist() == [1, 0, 1, 2]
    assert digest.tolist() == [pixel_digest(row) for row in found.train.inputs]
    assert [found.train.schema[name].role for name in ("caption", "domain", "sha256")] == ["said", "sealed", "sealed"]
    assert {"photo", "picture", "of", "dog"} <= {*form.vocabulary}
    assert len(found.test) == 0


def test_shards_follow_each_other_in_the_order_of_their_names(tmp_path):
    root = tar_shard(tmp_path / "web")
    second = {**columns(), "url": [f"https://d.example/{number}" for number in range(4)], "key": [f"{number:09}" for number in range(10_000, 10_004)]}
    pq.write_table(pa.table(second), root / "00001.parquet")
    packed(root / "00001.tar", {f"{number:09}.png": PICTURES[number - 10_000] for number in range(10_000, 10_004)})
    found = task(root)
    assert found.row_names == (*columns()["url"], *second["url"])
    assert found.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3] * 2


def test_rows_keep_the_order_of_the_index_whatever_the_order_in_the_tar_file(tmp_path):
    members = dict(reversed(files().items()))
    assert task(tar_shard(tmp_path / "web", members=members)).train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
def test_a_changed_picture_has_the_digest_of_the_index_and_not_that_of_its_pixels(tmp_path, caplog, algorithm):
    table = columns(algorithm)
    table[algorithm] = [value.upper() for value in table[algorithm]]
    changed = [*PICTURES[:2], encoded(77), PICTURES[3]]
    found = task(tar_shard(tmp_path / "web", table, files(changed)))
    digest = found.train.extra["sha256"]
    same = [digest[row].tolist() == pixel_digest(found.train.inputs[row]) for row in range(4)]
    assert same == [True, True, False, True]
    assert bytes(digest[2].tolist()) == hashlib.new(algorithm, PICTURES[2]).digest()[:32].ljust(32, b"\0")
    assert "the bytes of 1 of 4 pictures have another digest than the index (the first is " in told(caplog)
    assert "00000.parquet, row 2)" in told(caplog)
    assert "disable_all_reencoding" not in told(caplog)


def test_a_folder_whose_pictures_were_scaled_says_why_no_digest_is_met(tmp_path, caplog):
    task(tar_shard(tmp_path / "web", members=files([encoded(90 + value) for value in range(4)])))
    assert "img2dataset computes digests before it scales pictures" in told(caplog)


def test_the_digest_is_that_of_the_scaled_pixels(tmp_path):
    found = task(tar_shard(tmp_path / "web", members=files()), "task.size=2", "task.grey=true")
    assert found.train.inputs.shape == (4, 1, 2, 2)
    assert found.train.extra["sha256"].tolist() == [pixel_digest(row) for row in found.train.inputs]


def test_rows_that_were_not_fetched_are_left_out_and_counted(tmp_path, caplog):
    table = {**columns(), "status": ["success", "failed_to_download", "success", "failed_to_resize"]}
    table["sha256"][1] = None
    members = {name: content for name, content in files().items() if name[:9] not in ("000000001", "000000003")}
    found = task(tar_shard(tmp_path / "web", table, members))
    assert [found.row_names[row] for row in found.train.ids.tolist()] == [table["url"][0], table["url"][2]]
    assert found.train.extra["domain"].tolist() == [0, 0]
    assert "2 of 4 rows have no picture and are left out (the first is" in told(caplog)
    assert "row 1, failed_to_download)" in told(caplog)


@pytest.mark.parametrize("status", [True, False])
def test_a_null_picture_is_a_missing_row(tmp_path, caplog, status):
    root = tmp_path / "web"
    root.mkdir()
    table = {**columns(), "jpg": [None, *PICTURES[1:]]}
    pq.write_table(pa.table(table if status else without(table, "status")), root / "00000.parquet")
    assert len(task(root).train) == 3
    assert "1 of 4 rows have no picture" in told(caplog)


def test_an_index_without_status_has_the_rows_whose_pictures_are_there(tmp_path, caplog):
    members = {name: content for name, content in files().items() if name[:9] != "000000001"}
    found = task(tar_shard(tmp_path / "web", without(columns(), "status"), members))
    assert found.train.inputs[:, 0, 0, 0].tolist() == [0, 2, 3]
    assert "1 of 4 rows have no picture" in told(caplog)


def test_pictures_without_a_row_are_left_out_and_counted(tmp_path, caplog):
    assert len(task(tar_shard(tmp_path / "web", members={**files(), "000000009.jpg": PICTURES[0]})).train) == 4
    assert "1 pictures that no row of the index names are left out (the first is 000000009)" in told(caplog)


def test_one_index_and_a_folder_of_pictures_named_by_key_or_by_url(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, content in enumerate(PICTURES):
        (tmp_path / "pictures" / f"{number:09}.png").write_bytes(content)
    named = {"URL": columns()["url"], "TEXT": CAPTIONS, "md5": columns("md5")["md5"]}
    pq.write_table(pa.table({**named, "key": columns()["key"]}), tmp_path / "index.parquet")
    by_key = task(tmp_path / "index.parquet", f"task.images={tmp_path / 'pictures'}")
    for number in range(4):
        (tmp_path / "pictures" / f"{number:09}.png").rename(tmp_path / "pictures" / f"{number}.png")
    pq.write_table(pa.table(named), tmp_path / "index.parquet")
    by_url = task(tmp_path / "index.parquet", f"task.images={tmp_path / 'pictures'}")
    assert by_key.train.inputs[:, 0, 0, 0].tolist() == by_url.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert by_url.train.digest == by_key.train.digest


def test_columns_of_other_names_are_chosen(tmp_path):
    table = without(columns(), "url", "caption", "sha256") | {"address": columns()["url"], "alt": CAPTIONS, "sum": columns()["sha256"]}
    found = task(tar_shard(tmp_path / "web", table), "task.url=address", "task.caption=alt", "task.hash=sum")
    assert found.train.extra["sha256"].tolist() == [pixel_digest(row) for row in found.train.inputs]


def test_without_digests_the_column_is_left_out(tmp_path):
    found = task(tar_shard(tmp_path / "web", without(columns(), "sha256")), "task.unhashed=true")
    assert sorted(found.train.extra) == ["caption", "domain"]


def test_test_rows_are_folders_of_classes_with_no_caption_and_no_domain(tmp_path):
    for name in ("dog", "tree_frog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.png").write_bytes(encoded(50 + len(name)))
    table = {**columns(), "caption": ["a tree frog", "dogs and a dog", "a tree", "Dog"]}
    found = task(tar_shard(tmp_path / "web", table), "task.classes=null", f"task.test_root={tmp_path / 'test'}")
    assert found.class_names == ("dog", "tree_frog", "no class")
    assert found.train.labels.tolist() == [1, 0, 2, 0]
    assert found.test.labels.tolist() == [0, 1]
    assert found.test_names == ("dog/0.png", "tree_frog/0.png")
    assert not found.test.extra["caption"].any()
    assert found.test.extra["domain"].tolist() == [-1, -1]
    assert found.test.extra["sha256"].tolist() == [pixel_digest(row) for row in found.test.inputs]
    with pytest.raises(DataError, match=r"the folder tree_frog is no class of task\.classes, which are cat, dog"):
        task(tmp_path / "web", f"task.test_root={tmp_path / 'test'}")


def test_without_a_caption_that_names_no_class_there_is_no_further_class(tmp_path):
    table = {**columns(), "caption": ["cat", "dog", "cat", None]}
    assert task(tar_shard(tmp_path / "web", table)).class_names == ("cat", "dog", "no class")
    assert task(tar_shard(tmp_path / "web", {**table, "caption": ["cat", "dog", "cat", "dog"]})).class_names == ("cat", "dog")


def test_the_first_and_longest_name_in_a_caption_is_its_class():
    kinds = Kinds.of(["cat", "cat fish", "polar bear", "bear"])
    captions = ["a cat fish", "a fish cat", "polar cat bear", "a polar bear", "", "polar", "fish bear polar bear"]
    assert [kinds.first(caption.split()) for caption in captions] == [1, 0, 0, 2, 4, 4, 3]


def test_unlabelled_rows_have_one_class(tmp_path):
    found = task(tar_shard(tmp_path / "web"), "task.classes=null", "task.unlabelled=true")
    assert (found.class_names, found.train.labels.tolist()) == (("unlabelled",), [0, 0, 0, 0])


def test_long_captions_are_cut_and_counted(tmp_path, caplog):
    found = task(tar_shard(tmp_path / "web"), "task.length=3", "task.templates=['a {}']", "task.words=[zorbo]")
    form = found.train.schema["caption"].form
    assert found.train.extra["caption"].shape == (4, 3)
    assert form.decode(found.train.extra["caption"][0]) == "a dog ,"
    assert "zorbo" in form.places
    assert "1 of 4 captions have more than 3 words and are cut; task.length=7 keeps all" in told(caplog)


def test_a_second_load_reads_the_store_and_gives_the_same_rows(tmp_path):
    root = tar_shard(tmp_path / "web")
    assert task(root).digest == task(root).digest
    assert len(list((tmp_path / "store").glob("pixels-*.safetensors"))) == 1


def changed(**more):
    return {**columns(), **more}


HASHES = columns()["sha256"]
FAULTS = {
    "no digests": (without(columns(), "sha256"), None, "one column named md5 or sha256 or sha512 is needed, or read the rows without digests"),
    "two kinds of digests": (changed(md5=columns("md5")["md5"]), None, "set task.hash to sha256 or md5"),
    "no digest of a picture": (changed(sha256=["", *HASHES[1:]]), None, "00000.parquet, row 0 has a picture and no digest"),
    "no hexadecimal digits": (changed(sha256=[*HASHES[:3], "g" * 64]), None, "00000.parquet, row 3: 'ggg"),
    "a digest that is too short": (
        changed(sha256=[HASHES[0], HASHES[1][:-1], *HASHES[2:]]),
        None,
        "row 1: .* is no digest; sha256 gives 64 hexadecimal digits",
    ),
    "a url twice": (changed(url=["https://a.example/0"] * 4), None, "row 1 has the url https://a.example/0, as .*00000.parquet, row 0 has"),
    "no url": (changed(url=["", *columns()["url"][1:]]), None, "row 0, column url: the cell is empty"),
    "a url without a host": (changed(url=["0.png", *columns()["url"][1:]]), None, "row 0: '0.png' is no url with a host name"),
    "captions as numbers": (changed(caption=[1, 2, 3, 4]), None, "00000.parquet, row 0: the column caption has values of the type int64"),
    "no captions": (without(columns(), "caption"), None, "one column named caption or text is needed"),
    "no keys": (without(columns(), "key"), None, "00000.parquet has no column of keys"),
    "a key without a picture": (
        None,
        {name: content for name, content in files().items() if "2.png" not in name},
        "row 2: .*00000.tar has no picture with the key 000000002",
    ),
    "a key twice": (changed(key=["000000000"] * 4), None, "row 1 has the key 000000000, as .*row 0 has"),
    "a picture that is none": (None, files([*PICTURES[:3], b"no picture"]), r"00000.parquet, row 3 \(000000003\) cannot be read as an image"),
    "pictures of two sizes": (None, files([*PICTURES[:3], encoded(1, size=5)]), "pictures of 2 sizes"),
    "two pictures with one key": (None, {**files(), "000000000.jpg": PICTURES[0]}, "00000.tar has two pictures with the key 000000000"),
    "no picture at all": (changed(status=["failed_to_download"] * 4), {}, "has no row with a picture"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence_with_exit_code_2_and_nothing_is_written(tmp_path, capsys, name):
    table, members, says = FAULTS[name]
    root = tar_shard(tmp_path / "web", table, members)
    with pytest.raises(DataError, match=says):
        task(root)
    assert entry(["audit", *WORDS, f"task.root={root}", f"results_dir={tmp_path / 'results'}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if line.startswith("poisonbench: ")]) == 1
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list((tmp_path / "results").rglob("*.*"))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_shard_that_is_cut_off_is_refused(tmp_path, share):
    root = tar_shard(tmp_path / "web")
    content = (root / "00000.tar").read_bytes()
    end = content.rstrip(b"\0")
    (root / "00000.tar").write_bytes(content[: int(len(end) * share)])
    with pytest.raises(DataError, match=r"00000\.tar, byte \d+: the tar file is cut off"):
        task(root)


def test_an_index_that_is_cut_off_is_refused(tmp_path):
    root = tar_shard(tmp_path / "web")
    content = (root / "00000.parquet").read_bytes()
    (root / "00000.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"00000\.parquet cannot be read as parquet"):
        task(root)


def test_places_that_are_not_clear_are_refused(tmp_path):
    root = tar_shard(tmp_path / "web")
    packed(root / "00001.tar", files())
    with pytest.raises(DataError, match=r"00001\.tar has no index beside it; fetch 00001\.parquet too"):
        task(root)
    (root / "00001.tar").unlink()
    (root / "00000").mkdir()
    with pytest.raises(DataError, match=r"has pictures in .*00000\.tar and in .*00000; keep one"):
        task(root)
    (root / "00000").rmdir()
    (root / "00000.tar").unlink()
    with pytest.raises(DataError, match=r"00000\.tar, a folder 00000, or one column of picture bytes is needed"):
        task(root)
    (root / "00000.parquet").unlink()
    with pytest.raises(DataError, match="has no shards of an index"):
        task(root)
    with pytest.raises(DataError, match=r"no file at task\.root=.*; give the path of a table: CSV, TSV, JSON lines or Parquet"):
        task(root, f"task.images={root}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("task.classes=null",), "name the classes that captions name"),
        (("task.classes=[cat,Cat]",), "the class 'cat' needs words of its own"),
        (("task.unlabelled=true",), "task.classes names classes, and task.unlabelled=true"),
        (("task.unhashed=true", "task.hash=sha256"), "leave one of them out"),
        (("task.length=0",), "give a number of words of 1 or more"),
        (('task.templates=["a photo"]',), "'a photo' has 0 times {}"),
        (("task.words=[two words]",), "give single words"),
    ],
)
def test_settings_that_contradict_are_refused(tmp_path, words, says):
    with pytest.raises(ConfigError, match=says):
        task(tar_shard(tmp_path / "web"), *words)


def test_an_audit_names_rows_by_their_urls_and_writes_the_others_back(tmp_path, capsys):
    root = tmp_path / "web"
    root.mkdir()
    generator = np.random.default_rng(100)
    pictures = []
    for _ in range(40):
        stream = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
        pictures.append(stream.getvalue())
    pictures[39] = pictures[3]
    table = {
        "url": [f"https://a.example/{number}" for number in range(40)],
        "caption": ["a cat", "a dog"] * 20,
        "key": [str(number) for number in range(40)],
        "sha256": [hashlib.sha256(content).hexdigest() for content in pictures],
    }
    pq.write_table(pa.table(table), root / "0.parquet")
    packed(root / "0.tar", {f"{number}.png": content for number, content in enumerate(pictures)})
    words = ["audit", *WORDS, f"task.root={root}", f"results_dir={tmp_path / 'results'}", "defense=near_copies", "threads=1"]
    assert entry(words) == 0
    (suspects,) = tmp_path.rglob("suspects.csv")
    assert "https://a.example/39" in suspects.read_text()
    capsys.readouterr()
    assert entry([*words, f"apply={tmp_path / 'clean'}"]) == 0
    assert task(tmp_path / "clean" / "web").row_names == tuple(table["url"][:39])
    assert entry(["index", "verify", str(tmp_path / "clean" / "web")]) == 0
    assert "39 match, 0 differ, 0 missing" in capsys.readouterr().out
    assert "https://a.example/39" in (tmp_path / "clean" / "dropped.csv").read_text()
    assert pq.read_table(root / "0.parquet").num_rows == 40  # the source stays


def named_shard(root):
    """One index without keys, and a folder of pictures elsewhere."""
    (root.parent / "pictures").mkdir(exist_ok=True)
    root.mkdir()
    pq.write_table(pa.table(without(columns(), "key")), root / "index.parquet")
    for number, content in enumerate(PICTURES):
        (root.parent / "pictures" / f"{number}.png").write_bytes(content)
    return root / "index.parquet"


@pytest.mark.parametrize("make", [tar_shard, folder_shard, column_shard, named_shard])
@pytest.mark.parametrize("dropped", [(), (1, 3), (0, 1, 2, 3)])
def test_kept_rows_are_the_same_bytes_and_the_others_leave_nothing(tmp_path, make, dropped):
    root = make(tmp_path / "web")
    images = [f"task.images={tmp_path / 'pictures'}"] if make is named_shard else []
    source = build(tree_of([*WORDS, f"task.root={root}", *images])["task"], Store(tmp_path / "store").trusted, "task")
    out = tmp_path / "out"
    out.mkdir()
    left = [number for number in range(4) if number not in dropped]
    if not left:
        with pytest.raises(DataError, match="cannot be copied so that the copy reads back the same rows"):
            source.kept(dropped, out)
        return
    place = source.kept(dropped, out)
    moved = dataclasses.replace(source, root=str(place), images=str(out / "pictures") if images else None)
    _, pairs = moved.pairs()
    assert [pair.row.url for pair in pairs] == [columns()["url"][number] for number in left]
    assert [pair.shard.holder.read(pair.row.key) for pair in pairs] == [PICTURES[number] for number in left]
    assert moved.load(Store(tmp_path / "store")).train.labels.tolist() == [[1, 0, 2, 0][number] for number in left]
    assert len(pairs[0].shard.holder.keys) == len(left)
    files = [path for path in out.rglob("*") if path.suffix in (".png", ".txt", ".json") and "_stats" not in path.name]
    assert len(files) == len(left) * {folder_shard: 3, named_shard: 1}.get(make, 0)


def test_a_tar_file_keeps_the_texts_metadata_and_times_of_the_rows_that_stay_and_other_shards_are_copied(tmp_path):
    root = tar_shard(tmp_path / "web")
    second = {**columns(), "url": [f"https://d.example/{number}" for number in range(4)]}
    pq.write_table(pa.table(second), root / "00001.parquet")
    packed(root / "00001.tar", files())
    source = build(tree_of([*WORDS, f"task.root={root}"])["task"], Store(tmp_path / "store").trusted, "task")
    place = source.kept({2}, tmp_path / "out")
    with tarfile.open(place / "00000.tar") as tar:
        assert tar.getnames() == [name for name in files() if not name.startswith("000000002")]
        assert {member.mtime for member in tar.getmembers()} == {1700000000.5}
    for name in ("00001.parquet", "00001.tar", "00000_stats.json"):
        assert (place / name).read_bytes() == (root / name).read_bytes()


def test_rows_that_were_not_downloaded_stay_in_the_index(tmp_path):
    table = {**columns(), "status": ["success", "failed_to_download", "success", "success"]}
    root = tar_shard(tmp_path / "web", table, {name: content for name, content in files().items() if not name.startswith("000000001")})
    source = build(tree_of([*WORDS, f"task.root={root}"])["task"], Store(tmp_path / "store").trusted, "task")
    place = source.kept({1}, tmp_path / "out")  # the second of the rows that have a picture
    assert pq.read_table(place / "00000.parquet")["key"].to_pylist() == ["000000000", "000000001", "000000003"]


def verify(*words):
    return entry(["index", "verify", *map(str, words)])


@pytest.mark.parametrize("make", [tar_shard, folder_shard, column_shard])
def test_verify_of_an_untouched_folder(tmp_path, capsys, make):
    assert verify(make(tmp_path / "web")) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("4 match, 0 differ, 0 missing")


def test_verify_counts_what_differs_and_what_is_missing_and_names_the_first(tmp_path, capsys):
    members = {name: content for name, content in files([PICTURES[0], encoded(9), PICTURES[2], PICTURES[3]]).items() if "2.png" not in name}
    assert verify(tar_shard(tmp_path / "web", members=members)) == 1
    out = capsys.readouterr().out
    assert "2 match, 1 differ, 1 missing" in out
    assert f"first that differs: {tmp_path}/web/00000.parquet, row 1, https://a.example/1.png" in out
    assert f"first that is missing: {tmp_path}/web/00000.parquet, row 2, https://b.example/2.png" in out


def test_rows_that_were_not_downloaded_are_no_difference_and_a_lost_picture_is_one(tmp_path, capsys):
    table = changed(status=["success", "failed_to_download", "success", "success"])
    members = {name: content for name, content in files().items() if "1.png" not in name}
    assert verify(tar_shard(tmp_path / "web", table, members)) == 0
    assert "3 match, 0 differ, 0 missing, 1 not downloaded" in capsys.readouterr().out
    assert verify(tar_shard(tmp_path / "lost", columns(), members)) == 1
    assert "3 match, 0 differ, 1 missing" in capsys.readouterr().out


def test_verify_refuses_what_it_cannot_compare(tmp_path, capsys):
    root = tar_shard(tmp_path / "web", without(columns(), "sha256"))
    for words, says in (((root,), "one column named md5 or sha256"), ((), "index verify FOLDER"), ((tmp_path / "none",), "nothing at")):
        assert verify(*words) == 2
        assert says in capsys.readouterr().err
    assert entry(["index"]) == 2


def test_the_pixels_that_a_filter_compares_are_those_of_the_rows(tmp_path):
    """A row whose pixels change after the index was read differs from its column, as every later filter needs."""
    found = task(tar_shard(tmp_path / "web"))
    rows = found.train.edit(torch.tensor([1]), inputs=found.train.inputs[1:2] ^ 1)
    same = [rows.extra["sha256"][row].tolist() == pixel_digest(rows.inputs[row]) for row in range(4)]
    assert same == [True, False, True, True]
    assert rows.extra["sha256"].shape == (4, 32)


def test_an_index_is_poisoned_checked_by_its_digests_and_trained_on(tmp_path):
    """One picture has changed since the index was made, and one is poisoned: the filter drops both."""
    root = tar_shard(tmp_path / "web", members=files([encoded(9), *PICTURES[1:]]))
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for value in range(3):
            (tmp_path / "test" / name / f"{value}.png").write_bytes(encoded(20 + 30 * value + (10 if name == "cat" else 0)))
    words = ["attack=clip_backdoor", "threat.budget.count=1", "defense=sha256", "task=index", "task.trusted=0", "seed=100", "learner.epochs=1", "threads=1"]
    tree = tree_of([*words, f"task.root={root}", f"task.test_root={tmp_path / 'test'}", "task.duplicates=allow", "attack.data.like.target=1"])
    store = Store(tmp_path / "store")
    record = run(assemble(tree, store), store)
    assert record.status == "done", record.reason
    assert record.counts["poisoned"] == 1
    assert record.counts["poisoned_kept"] == 0
    assert record.metrics["removed"] in (1, 2)  # the poisoned row may be the one that has changed
    assert "caption_recall" not in record.metrics.get("goal", {})  # test pictures have no captions


def test_a_class_may_be_called_unlabelled_and_only_classes_with_names_have_captions(tmp_path):
    root = tar_shard(tmp_path / "web", table={**columns(), "caption": ["an unlabelled jar", "the cat", "nothing at all", "a cat fish"]})
    found = task(root, "task.classes=[unlabelled,cat]")
    form, words = found.train.schema["labels"].form, found.train.schema["caption"].form
    assert found.train.labels.tolist() == [0, 1, 2, 1]
    assert [len(prompts) for prompts in form.listed] == [3, 3, 0]
    assert words.decode(torch.tensor(form.listed[0][0])) == "a photo of a unlabelled"
    with pytest.raises(ConfigError, match="no caption names class 2 of this task, so no attack can write one; choose another target"):
        form.drawn(torch.tensor([2]), torch.tensor([0.5]), 32)


def test_held_out_rows_that_name_no_class_are_left_out_with_a_warning(tmp_path, caplog):
    many = {name: [*values] * 5 for name, values in columns().items() if name != "error_message"}
    many["url"] = [f"https://a.example/{number}.png" for number in range(20)]
    many["key"] = [f"{number:09}" for number in range(20)]
    pictures = [encoded(value) for value in range(20)]
    many["sha256"] = [hashlib.sha256(picture).hexdigest() for picture in pictures]
    found = task(tar_shard(tmp_path / "web", table=many, members=files(pictures)), "task.test=0.4")
    assert 0 < len(found.test) < 8
    assert (found.test.labels < 2).all()
    assert "of 8 test rows are left out, because their caption names no class" in told(caplog)
    experiment = assemble(tree_of([*WORDS, f"task.root={tmp_path / 'web'}", "task.test=0.4", "attack=clip_targeted", "threat.trials=1"]), Store(tmp_path / "s"))
    for seed in range(100, 110):
        line = Line(experiment=dataclasses.replace(experiment, seed=seed), store=Store(tmp_path / "s"))
        assert int(line.struck().goal.inner.wish[0]) in (0, 1)


def test_a_row_without_a_digest_is_counted_apart(tmp_path, capsys):
    table = columns()
    table["sha256"] = [None, *table["sha256"][1:]]
    tar_shard(tmp_path / "web", table=table)
    assert entry(["index", "verify", str(tmp_path / "web")]) == 0
    said = capsys.readouterr().out
    assert "3 match, 0 differ, 0 missing, 1 without a digest in the index" in " ".join(said.split())
