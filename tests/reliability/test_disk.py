"""A full or read-only disk: one sentence, and files that existed before stay unchanged."""

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.reliability.warm import command

WORDS = [*TINY, "attack=backdoor", "threat.budget.rate=0.2", "seed=100"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def victims(folder: Path) -> dict[str, bytes]:
    return {name: text for name, text in contents(folder / "results" / "store").items() if name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    calm = tmp_path_factory.mktemp("calm")
    assert command(*WORDS, cwd=calm).returncode == 0
    return victims(calm)


@pytest.mark.parametrize("size", [10, 2_000, 9_000])
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on_later(tmp_path, undisturbed, size):
    full = command(*WORDS, cwd=tmp_path, largest=size)
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "Traceback" not in full.stderr
    assert len(full.stderr.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".lease")]
    assert command(*WORDS, cwd=tmp_path).returncode == 0
    assert victims(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("size", range(100, 9_100, 225))  # the largest file has more than 9,100 bytes
def test_a_disk_that_is_full_anywhere_on_the_way_loses_nothing(tmp_path, undisturbed, size):
    test_a_full_disk_is_one_sentence_and_the_same_command_goes_on_later(tmp_path, undisturbed, size)


@pytest.mark.parametrize("asked", [["export", "RECORD", "OUT"], ["report", "page.md"]])
def test_a_command_that_meets_a_full_disk_leaves_the_old_file(tmp_path, asked):
    assert command(*WORDS, "publish=true", cwd=tmp_path).returncode == 0
    (tmp_path / "page.md").write_text("<!-- records: blobs -->\n<!-- end -->\n")
    before = contents(tmp_path)
    record = next(tmp_path.glob("results/records/*.json"))
    words = [{"RECORD": str(record), "OUT": str(tmp_path / "out")}.get(word, word) for word in asked]
    done = command(*words, cwd=tmp_path, largest=60)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_must_not_be_written_is_named(tmp_path):
    (tmp_path / "results").mkdir(mode=0o555)
    done = command(*WORDS, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_a_file_where_the_results_should_lie_is_named(tmp_path):
    (tmp_path / "results").write_text("")
    done = command(*WORDS, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert sys.executable not in done.stderr
