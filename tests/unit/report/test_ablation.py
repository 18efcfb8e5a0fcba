import dataclasses

import pytest

from poisonbench.commands.report import main
from poisonbench.config.compose import options, tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.report import ablation, curves
from poisonbench.report.experiments import belonging, number_of, swept
from poisonbench.report.figures import Failures
from poisonbench.report.tables import filled
from poisonbench.storage.record import Record
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


def limited(count: int, limit: str, attack: str = "badnets", seed: int = 0) -> Record:
    told = made(attack=attack, defense="none", seed=seed, asr=count / 10)
    command = f"python -m poisonbench attack={attack} threat.budget.count={count} task.limit={limit} seed={seed} +experiment=e"
    threat = {"budget": {"count": count}}
    return dataclasses.replace(told, command=command, spec={**told.spec, "threat": threat, "task": {"name": "digits", "rows": limit}})


def test_each_setting_that_an_experiment_varies_has_a_line_of_its_own():
    key = "threat.budget.count"
    one = [limited(count, limit) for limit in ("685", "null") for count in (1, 5)]
    assert ablation.labels(one, "e", key) == ["task.limit=685"] * 2 + ["task.limit=null"] * 2
    two = [*one, limited(1, "null", "sig")]
    assert ablation.labels(two, "e", key)[-2:] == ["badnets, task.limit=null", "sig, task.limit=null"]
    alone = [limited(count, "null", seed=seed) for count in (1, 5) for seed in (0, 1)]
    assert ablation.labels(alone, "e", key) == ["none"] * 4
    plain = dataclasses.replace(limited(9, "685"), command="python -m poisonbench task.limit=685 threat.budget.count=9")
    assert ablation.labels([*one, plain], "e", key)[-1] == "task.limit=685"


def test_numbers_from_zero_are_drawn_apart(tmp_path):
    records = [limited(count, limit) for limit in ("685", "null") for count in (0, 1, 100)]
    ablation.draw(records, "e", tmp_path / "f.svg")
    drawn = (tmp_path / "f.svg").read_text()
    assert all(text in drawn for text in ("task.limit=685", "task.limit=null", "threat.budget.count"))
    assert drawn.count(">100<") == 2  # a tick in each panel


def broken(record: Record) -> Record:
    return dataclasses.replace(record, status="failed", reason="out of memory", metrics={}, undefended={}, baseline={})


def test_a_failed_seed_counts_as_in_tables_and_is_named_in_the_legend(tmp_path):
    seeds = [sized(size, seed) for size in (1, 2) for seed in range(3)]
    records = [broken(seeds[0]), dataclasses.replace(seeds[1], counts={"classes": 4}), *seeds[2:]]
    line = {1.0: records[:3], 2.0: records[3:]}
    failures = Failures.among(records)
    assert ablation.heights(line, "asr", failures) == {1.0: [1.0, 0.1, 0.1], 2.0: [0.2, 0.2, 0.2]}
    assert ablation.heights(line, "c_acc", failures)[1.0] == [0.25, 0.91, 0.92]
    assert ablation.heights(line, "median_radius", failures) == {}
    ablation.draw(records, "trigger_size", tmp_path / "figure.svg")
    assert "spectral (1 seed failed)" in (tmp_path / "figure.svg").read_text()
    ablation.draw(seeds, "trigger_size", tmp_path / "figure.svg")
    assert "failed" not in (tmp_path / "figure.svg").read_text()


def test_an_experiment_whose_seeds_all_failed_says_how_to_make_them(tmp_path):
    with pytest.raises(ConfigError, match="make some"):
        ablation.draw([broken(sized(size, 0)) for size in (1, 2)], "trigger_size", tmp_path / "figure.svg")


def federated(defense: str, seed: int, *, asr: list[float]) -> Record:
    told = made(defense=defense, seed=seed, curves={"defended": {"asr": asr}})
    spec = {**told.spec, "threat": {**told.spec["threat"], "rounds": None}, "defense": {"name": defense, "aggregate": {"class": "defenses.aggregate.A"}}}
    return dataclasses.replace(told, spec=spec, command=f"python -m poisonbench attack=federated defense={defense} seed={seed}")


def test_only_runs_of_one_setting_share_a_line(tmp_path):
    """Another share of clients, another variant of a rule and a repair are other experiments."""
    plain = [federated(rule, seed, asr=[0.1, 0.2]) for rule in ("krum", "median") for seed in (0, 1)]
    curves.draw(plain, tmp_path / "plain.svg")
    other = dataclasses.replace(plain[0], command=f"{plain[0].command} threat.budget.clients=0.3", curves={"defended": {"asr": [0.9, 0.9]}})
    repaired = dataclasses.replace(plain[0], spec={**plain[0].spec, "defense": {"name": "fine_tune", "repair": {"class": "A"}}})
    curves.draw([*plain, other, repaired], tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text() == (tmp_path / "plain.svg").read_text()


def test_a_rule_looks_alike_in_every_panel(tmp_path):
    def dealt(record):
        return dataclasses.replace(record, command=f"{record.command} owners=dirichlet")

    curves.draw([federated("median", 0, asr=[0.1, 0.2]), dealt(federated("krum", 0, asr=[0.3])), dealt(federated("median", 0, asr=[0.4]))], tmp_path / "f.svg")
    drawn = (tmp_path / "f.svg").read_text()
    assert drawn.count("#ff7f0e") > drawn.count("#1f77b4") > 0  # median is the second of both rules, also where it is drawn alone


def test_a_failed_seed_of_a_federated_run_is_named_beside_the_curve_of_the_others(tmp_path):
    records = [federated("krum", 0, asr=[0.1, 0.2]), federated("krum", 1, asr=[0.1, 0.3]), broken(federated("krum", 2, asr=[]))]
    lost = broken(federated("median", 0, asr=[]))
    other = broken(made(attack="sig", defense="krum", seed=5))  # of no federated attack
    curves.draw([*records, lost, other], tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "krum (1 seed failed)" in drawn
    assert "median (1 seed failed)" in drawn
    curves.draw(records[:2], tmp_path / "figure.svg")
    assert "failed" not in (tmp_path / "figure.svg").read_text()


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
