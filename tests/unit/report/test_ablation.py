import dataclasses

import pytest

from poisonbench.commands.compose import options, tree_of
from poisonbench.commands.report import main
from poisonbench.core.errors import ConfigError
from poisonbench.record import Record
from poisonbench.report.experiments import belonging, number_of, swept
from poisonbench.report.tables import filled
from tests.unit.report.test_leaderboard import made


def sized(size: int, seed: int, defense: str = "spectral") -> Record:
    command = f"python -m poisonbench attack.data.size={size} defense={defense} seed={seed} +experiment=trigger_size"
    told = made(defense=defense, seed=seed, asr=size / 10)
    return dataclasses.replace(told, command=command, spec={**told.spec, "size": size})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for size in (1, 2, 3):
        for seed in range(3):
            for defense in ("none", "spectral"):
                sized(size, seed, defense).write(tmp_path / "results" / "records")
    return tmp_path


def test_the_key_that_is_swept_is_found():
    assert swept([sized(1, 0), sized(2, 1)]) == "attack.data.size"
    assert swept([sized(1, 0), sized(1, 1)]) is None


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_the_figure_of_an_experiment_is_the_same_every_time(here, kind):
    assert main([f"trigger_size.{kind}"]) == 0
    first = (here / f"trigger_size.{kind}").read_bytes()
    assert main([f"trigger_size.{kind}"]) == 0
    assert (here / f"trigger_size.{kind}").read_bytes() == first
    assert sorted(path.name for path in here.iterdir()) == ["results", f"trigger_size.{kind}"]
    if kind == "svg":
        assert all(text in first.decode() for text in ("attack.data.size", "spectral", "none", "ASR", "C-Acc"))


def test_an_experiment_without_records_says_how_to_make_them(here):
    with pytest.raises(ConfigError, match=r"python -m poisonbench \+experiment=opacity publish=true"):
        main(["opacity.svg"])
    assert not (here / "opacity.svg").exists()


def test_a_table_can_hold_one_experiment():
    text = filled("<!-- records: digits experiment=trigger_size -->\n<!-- end -->", [sized(1, 0), made()])
    assert text.count("| badnets |") == 1


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes(name):
    assert tree_of([f"+experiment={name}"])["seed"] == 0


def test_a_plain_run_at_the_default_of_the_swept_key_belongs_to_the_experiment():
    def told(size: int, command: str, *, margin: int = 0) -> Record:
        record = made(seed=size)
        spec = {**record.spec, "attack": {"name": "badnets", "data": {"size": size, "margin": margin}}}
        return dataclasses.replace(record, spec=spec, command=f"python -m poisonbench {command} seed=0")

    tagged = [told(size, f"attack.data.size={size} +experiment=trigger_size") for size in (1, 2)]
    plain, other = told(3, "attack=backdoor"), told(3, "attack=backdoor attack.data.margin=1", margin=1)
    assert belonging([*tagged, plain, other], "trigger_size") == [*tagged, plain]
    assert number_of(plain, "attack.data.size") == 3.0
