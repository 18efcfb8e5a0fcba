"""A record may come from a stranger: what its command may do without the user's word."""

import dataclasses
import sys

import pytest

from poisonbench.cli import entry
from poisonbench.config.rerun import split, words_of
from poisonbench.core.errors import ConfigError
from poisonbench.storage.record import Record
from tests.conftest import SPEC

RECORD = Record(spec=SPEC)
DICT = "task=mnist '+task={download: true}'"  # the same in other words
CODE = 'import pathlib\npathlib.Path("imported").touch()\n'


def of(command: str) -> Record:
    return dataclasses.replace(RECORD, command=command)


@pytest.mark.parametrize("command", ["verify", "show", "export"])
@pytest.mark.parametrize(
    "words",
    [
        "trust=foreign. attack.data._target_=foreign.Mine",
        "'hydra.searchpath=[pkg://foreign]'",
        "task=mnist task.download=true",
        "task=mnist ++task.download=true",
        DICT,
    ],
)
def test_a_record_runs_no_code_of_its_own_and_asks_no_network(tmp_path, monkeypatch, capsys, command, words):
    (tmp_path / "foreign.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = of(f"python -m poisonbench {words}").write(tmp_path / "records")
    assert entry([command, str(path)]) == 2
    err = capsys.readouterr().err
    assert "if you trust it, say so yourself" in err
    assert len(err.splitlines()) == 1
    assert "foreign" not in sys.modules
    assert not (tmp_path / "imported").exists()


def test_words_that_the_user_gives_may_stand_in_the_record():
    allowed, rest = split(["record.json", "trust=mine.", "hydra.searchpath=[pkg://mine.configs]", "tolerance=0.1"])
    assert rest == ["record.json", "tolerance=0.1"]
    told = of("python -m poisonbench 'hydra.searchpath=[pkg://mine.configs]' trust=mine. attack=mine")
    assert words_of(told, allowed) == ["hydra.searchpath=[pkg://mine.configs]", "trust=mine.", "attack=mine"]
    with pytest.raises(ConfigError, match=r"trust=mine\."):
        words_of(told, ["trust=yours."])


def test_where_a_record_was_made_is_no_matter_of_whoever_repeats_it(monkeypatch):
    monkeypatch.setenv("SECRET", "told")
    monkeypatch.setenv("DATA", "here")
    told = of("python -m poisonbench results_dir=/anywhere publish=true engine.partition=x task.root=$DATA/a sweep=$SECRET seed=$SECRET")
    assert words_of(told, []) == ["task.root=here/a", "seed=$SECRET"]


def test_the_plainest_command_is_a_command_line():
    assert words_of(of("python -m poisonbench"), []) == []
    for command in ("poisonbench.run('seed=0')", "", "echo x"):
        with pytest.raises(ConfigError, match="is no command line"):
            words_of(of(command), [])
