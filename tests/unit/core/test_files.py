import json

import pytest

from poisonbench.core.errors import DataError
from poisonbench.core.files import DEPTH, DIGITS, File, bounded, seal, sealed, write_atomically, write_text


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
    with pytest.raises(ValueError, match=f"at most {DEPTH} brackets"):
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
