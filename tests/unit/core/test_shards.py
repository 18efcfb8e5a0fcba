"""Tar shards: the same members and digests as Python's tarfile and hashlib give, and every damage is refused."""

import hashlib
import io
import tarfile

import pytest

from poisonbench.core import shards
from poisonbench.core.errors import DataError
from poisonbench.core.rng import Key
from poisonbench.core.shards import BLOCK, Member, digests, members


def noise(size, seed=100):
    return Key.root(seed).numpy().bytes(size)


def packed(path, files, kind=tarfile.USTAR_FORMAT, *, time=0):
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), time
            tar.addfile(info, io.BytesIO(content))
    return path


def row(number, size):
    return {f"{number:09}.jpg": noise(size, number), f"{number:09}.txt": b"a cat", f"{number:09}.json": b'{"key": 1}'}


SIZES = [0, 1, 511, 512, 513, 4096, 40_000]
FILES = {name: content for number, size in enumerate(SIZES) for name, content in row(number, size).items()}


@pytest.mark.parametrize("window", [BLOCK, 2 * BLOCK, 7 * BLOCK, shards.WINDOW])
@pytest.mark.parametrize(("kind", "time"), [(tarfile.USTAR_FORMAT, 0), (tarfile.GNU_FORMAT, 0), (tarfile.PAX_FORMAT, 1700000000.25)])
def test_members_and_digests_are_those_of_tarfile_and_hashlib_whatever_the_window(tmp_path, monkeypatch, window, kind, time):
    monkeypatch.setattr(shards, "WINDOW", window)
    path = packed(tmp_path / "0.tar", FILES, kind, time=time)
    with tarfile.open(path) as tar:
        expected = [Member(*info.name.split("."), info.offset_data, info.size) for info in tar]
    assert list(members(path)) == expected
    pictures = {name[:9]: content for name, content in FILES.items() if name.endswith("jpg")}
    for algorithm in ("md5", "sha256", "sha512"):
        assert dict(digests(path, {"jpg"}, algorithm)) == {key: hashlib.new(algorithm, content).digest() for key, content in pictures.items()}


def test_a_key_ends_at_the_first_dot_behind_its_folder(tmp_path):
    path = packed(tmp_path / "0.tar", {"./a.JPG": b"1", "v1.0/b.seg.png": b"2", "c": b"3"})
    assert [member[:2] for member in members(path)] == [("a", "jpg"), ("v1.0/b", "seg.png"), ("c", "")]


@pytest.mark.parametrize("window", [BLOCK, shards.WINDOW])
def test_a_tar_file_as_the_content_of_a_member_is_content(tmp_path, monkeypatch, window):
    monkeypatch.setattr(shards, "WINDOW", window)
    inner = packed(tmp_path / "inner", {"x.jpg": noise(600), "y.jpg": b"1"}).read_bytes()
    path = packed(tmp_path / "0.tar", {"a.jpg": inner, "b.jpg": noise(10)})
    assert [member.key for member in members(path)] == ["a", "b"]


def test_folders_and_links_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, kind in (("a", tarfile.DIRTYPE), ("b.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "c.jpg" if kind == tarfile.SYMTYPE else ""
            tar.addfile(info)
        info = tarfile.TarInfo("c.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [member.key for member in members(tmp_path / "0.tar")] == ["c"]


def test_a_size_in_binary_is_read(tmp_path):
    path = packed(tmp_path / "0.tar", {"a.jpg": noise(700)})
    content = bytearray(path.read_bytes())
    content[124:136] = b"\x80" + (700).to_bytes(11, "big")
    total = sum(content[:148]) + 8 * 32 + sum(content[156:BLOCK])
    content[148:156] = f"{total:06o}\0 ".encode()
    path.write_bytes(content)
    assert [member.size for member in members(path)] == [700]
    with tarfile.open(path) as tar:
        assert [info.size for info in tar] == [700]


@pytest.mark.parametrize("window", [BLOCK, shards.WINDOW])
def test_a_tar_file_that_is_cut_anywhere_before_its_end_is_refused(tmp_path, monkeypatch, window):
    monkeypatch.setattr(shards, "WINDOW", window)
    path = packed(tmp_path / "0.tar", row(0, 1000))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        end = max(-(-(info.offset_data + info.size) // BLOCK) * BLOCK for info in tar)
    for size in (*range(0, end, 100), *range(0, end + BLOCK, BLOCK), end - 1, end + BLOCK - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"0\.tar, byte \d+: the tar file is cut off"):
            list(members(path))
    path.write_bytes(whole[: end + BLOCK])
    assert len(list(members(path))) == 3


def damaged(path, place, value):
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (0, b"X", "a header whose checksum is wrong"),
        (148, b"zzzzzz", "a header whose checksum is wrong"),
        (124, b"9", "byte 0: no header of a tar file"),
        (257, b"\x1f\x8b\x08\x00\x00", "byte 0: no header of a tar file"),
        (1024, b"\x01", r"byte 1024: no header of a tar file"),
        (5000, b"\x01", "goes on after its end"),
    ],
)
def test_damage_is_found(tmp_path, place, value, says):
    path = damaged(packed(tmp_path / "0.tar", {"a.jpg": noise(500)}), place, value)
    with pytest.raises(DataError, match=says):
        list(members(path))


def test_bytes_behind_the_end_are_found_beyond_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "WINDOW", 3 * BLOCK)
    one = packed(tmp_path / "0.tar", {"a.jpg": noise(500)})
    one.write_bytes(one.read_bytes() * 2)
    with pytest.raises(DataError, match="goes on after its end"):
        list(members(one))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_is_refused_instead_of_cut(tmp_path, kind):
    path = packed(tmp_path / "0.tar", {f"{'d' * 80}/{'n' * 80}.jpg": b"1"}, kind)
    with pytest.raises(DataError, match="has long names, names with other letters than ASCII, or sparse files"):
        list(members(path))


def test_an_empty_file_is_no_tar_file_and_an_empty_archive_has_no_members(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(DataError, match="cut off"):
        list(members(tmp_path / "0.tar"))
    assert list(members(packed(tmp_path / "1.tar", {}))) == []


def test_random_bytes_are_refused(tmp_path):
    for size in (10, 512, 5000):
        (tmp_path / "0.tar").write_bytes(noise(size))
        with pytest.raises(DataError):
            list(members(tmp_path / "0.tar"))
