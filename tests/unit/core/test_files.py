import errno
import json
import os
import stat
from pathlib import Path

import pytest

from poisonbench.core.errors import CannotWrite, DataError
from poisonbench.core.files import DEPTH, DIGITS, File, bounded, seal, sealed, write_atomically, write_sealed, write_text, write_together


def test_a_write_that_fails_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "record.json"
    write_text(path, "old")

    def torn(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, torn)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_others_may_read_what_is_written(tmp_path):
    write_text(tmp_path / "deep" / "file", "text")
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_not_there_is_refused_when_it_is_named(tmp_path):
    with pytest.raises(DataError, match="no file at"):
        File(str(tmp_path / "nothing.png"))


def test_a_seal_tells_the_digest_and_the_seconds(tmp_path):
    path = tmp_path / "value.safetensors"
    path.write_bytes(b"abc")
    seal(path, 1.25)
    assert sealed(path) == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 1.25)


@pytest.mark.parametrize("told", ["-0.1", "inf", "nan", "soon", ""])
def test_a_seal_of_another_form_is_refused(tmp_path, told):
    (tmp_path / "value.sha256").write_text(f"abc {told}\n")
    with pytest.raises(ValueError, match=r"it took|could not convert"):
        sealed(tmp_path / "value.safetensors")


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_json_may_be_as_deep_as_the_limit_and_no_deeper(brackets):
    text = brackets[0] * DEPTH + brackets[1] * DEPTH
    assert bounded(text * 2) == text * 2
    with pytest.raises(ValueError, match=f"at most {DEPTH} nested brackets"):
        bounded(f"{brackets[0]}{text}{brackets[1]}")


def test_a_number_of_json_may_be_as_long_as_the_limit_and_no_longer():
    assert bounded("9" * DIGITS) == "9" * DIGITS
    with pytest.raises(ValueError, match=f"{DIGITS} digits"):
        bounded(f"[{'9' * (DIGITS + 1)}]")


def test_numbers_on_both_sides_of_a_string_are_two():
    text = '["' + "\\n" + f'", {"9" * DIGITS}, "", {"9" * DIGITS}]'
    assert bounded(text) == text
    plain = f'[{"9" * DIGITS}"a"{"9" * DIGITS}]'
    assert bounded(plain) == plain
    with pytest.raises(ValueError, match=f"{DIGITS} digits"):
        bounded(f"[{chr(0x663) * (DIGITS + 1)}]")  # digits of another script count too


def test_what_stands_in_a_string_of_json_is_text():
    text = json.dumps({"a": "[" * (DEPTH + 1) + '"' + "\\" + "9" * (DIGITS + 1)})
    assert bounded(text) == text
    with pytest.raises(ValueError, match="too deep"):
        bounded('["' + "\\\\" + '",' + "[" * DEPTH)  # the string ends behind its escaped backslash


def test_a_sentence_is_one_line_that_a_terminal_may_show():
    assert str(DataError("a\x1b[31mred\nline,\t two")) == r"a\x1b[31mred line, two"


def test_files_written_together_are_on_the_disk_before_they_come_into_place_in_order(tmp_path, monkeypatch):
    events: list[str] = []
    flush, replace = os.fsync, os.replace

    def flushed(handle):
        flush(handle)
        held = os.fstat(handle)
        events.append("folder" if stat.S_ISDIR(held.st_mode) else f"flush {held.st_size}")

    def replaced(source, target):
        events.append(f"place {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    write_together({tmp_path / "b": b"12345", tmp_path / "a": b"1"})
    assert events == ["flush 5", "flush 1", "place b", "place a", "folder"]
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"1", b"12345"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_together_that_fails_is_one_sentence_and_leaves_no_trace(tmp_path, monkeypatch, call):
    real, calls = getattr(os, call), []

    def full(*words):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*words)

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(CannotWrite, match=r"a cannot be written \(No space left on device\)"):
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old" if call == "fsync" else b"new"}


def test_a_value_written_with_its_seal_is_as_sealed(tmp_path):
    path = tmp_path / "value.safetensors"
    write_sealed(path, b"abc", 1.25)
    content, told = path.read_bytes(), path.with_suffix(".sha256").read_bytes()
    seal(path, 1.25)
    assert content == b"abc"
    assert told == path.with_suffix(".sha256").read_bytes()
