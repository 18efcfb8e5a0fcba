import pytest

from poisonbench.core.errors import DataError
from poisonbench.core.files import File, write_atomically, write_text


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
