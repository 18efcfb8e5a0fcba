"""What tables and the screen say beside a figure: units, relations, ranges, what failed."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from poisonbench.report import certified
from poisonbench.report.curves import band
from poisonbench.report.figures import goal, malicious, net_asr, over_targets, radii, radius_unit, relation, text
from poisonbench.report.ledger import measured
from poisonbench.report.ledger import table as ledger_table
from poisonbench.report.tables import filled, table
from poisonbench.stats import Spread, clopper_pearson
from poisonbench.storage.record import Record
from poisonbench.terminal import show_record
from tests.unit.report.test_leaderboard import failed, made

OLD = "changed training rows (kind of change not recorded)"


def proved(seed: int = 0, **more: object) -> Record:
    return made(seed=seed, defense="dpa", metrics={"c_acc": 0.9, "asr": 0.1, "certified": [0.9, 0.6], "median_radius": 1, **more}, counts={"poisoned": 0})


def shown(record: Record) -> str:
    stream = io.StringIO()
    show_record(Console(file=stream, width=200), record, Path("x.json"))
    return stream.getvalue()


def test_a_figure_is_a_mean_and_its_range_where_seeds_differ_at_the_digits_told():
    assert text(Spread(0.989, 0.983, 0.994), 1, 100) == "98.9 (98.3 to 99.4)"
    assert text(Spread(0.9891, 0.98905, 0.98914), 1, 100) == "98.9"
    assert "| 91.0 (90.0 to 92.0) / 10.0 |" in table([made(seed=seed) for seed in range(3)])


def on(seed: int, processor: str) -> Record:
    return dataclasses.replace(made(seed=seed), provenance={"processor": processor, "device": "cpu", "threads": 1, "torch": "2"})


def test_a_table_says_where_seeds_of_one_line_come_from_different_machines():
    note = "The seeds of all lines come from different machines, which round differently: A, cpu, threads=1, torch 2; B, cpu, threads=1, torch 2."
    assert note in table([on(0, "A"), on(1, "B")])


def test_a_table_whose_lines_come_from_one_machine_each_has_no_note():
    assert "different machines" not in table([on(0, "A"), on(1, "A")])


def test_the_name_of_a_machine_cannot_end_a_table():
    assert "<!--" not in table([on(0, "A <!-- end -->"), on(1, "B")])


def test_net_asr_is_what_the_attack_adds_to_clean_training_behind_the_screen():
    assert net_asr(made(baseline={"asr": 0.04})) == pytest.approx(0.06)
    assert net_asr(made(baseline={"asr": 0.4})) == 0.0
    assert net_asr(made(metrics={"asr": 1.0, "screen": {"asr": 0.02}})) == 0.02
    assert net_asr(made(metrics={"c_acc": 0.9})) is None


SCHEMAS = ((1, lambda figures: figures), (2, lambda figures: {"goal": figures}))


@pytest.mark.parametrize(("schema", "laid"), SCHEMAS)
def test_figures_of_a_goal_are_read_where_either_schema_has_them(schema, laid):
    part = {"c_acc": 0.9, **laid({"c_acc_lost": 0.2, "canaries_right": 0.5})}
    record = made(undefended=part, metrics=part, schema=schema)
    assert goal(record, "metrics") == {"c_acc_lost": 0.2, "canaries_right": 0.5}
    assert "C-Acc lost 20.0" in table([record])
    assert "C-Acc lost: undefended 20.0 %, defended 20.0 %" in shown(record)


@pytest.mark.parametrize(("schema", "laid"), SCHEMAS)
def test_canaries_of_either_schema_are_shown(schema, laid):
    part = {"c_acc": 0.9, **laid({"epsilon_lower": 2.5})}
    record = made(undefended=part, metrics=part, schema=schema)
    assert "undefended: canaries prove an epsilon of at least 2.50; canaries prove an epsilon of at least 2.50" in table([record])
    assert "epsilon of at least: undefended 2.500, defended 2.500" in shown(record)


def test_what_a_defense_assumes_is_shown_with_where_it_comes_from():
    record = made(assumed={"defense.sanitize.expected_rate": {"value": 0.05, "source": "a stated assumption"}})
    assert "assumed: defense.sanitize.expected_rate=0.05, a stated assumption" in shown(record)


def test_radii_stand_beside_what_they_count_in_the_table_and_on_the_screen():
    assert radius_unit(proved()) == OLD
    assert f"in {OLD}: median radius 1.0; certified accuracy 60.0 at 1" in table([proved()])
    assert f"certified against {OLD}" in shown(proved())
    flips = proved(radius_unit="labels flipped", collective={"3": 0.5})
    assert "in labels flipped: median radius 1.0; certified accuracy 60.0 at 1; accuracy under one attack on all test rows 50.0 at 3" in table([flips])
    assert "certified against labels flipped" in shown(flips)
    assert "by number of labels flipped: 50.0 % at 3" in shown(flips)
    assert f"in {OLD} or labels flipped: " in table([proved(), proved(seed=1, radius_unit="labels flipped")])


def test_an_epsilon_stands_beside_its_neighbours():
    spent = made(facts={"epsilon": 3.0, "delta": 1e-5, "adjacency": "replace one row"})
    assert relation(spent) == "neighbours: replace one row, draws of public seeds"
    assert "epsilon 3.00 (neighbours: replace one row, draws of public seed 0)" in table([spent])
    assert "privacy: epsilon 3.000 at delta 1e-05, neighbours: replace one row, draws of public seed 0" in shown(spent)
    many = made(facts={"epsilon": 3.0, "delta": 1e-5, "adjacency": "add or remove one row", "members": 100, "epsilon_of_one_member": 0.0949})
    together = "neighbours: add or remove one row, all 100 trainings together, one alone 0.0949, draws of public seed 0"
    assert f"epsilon 3.00 ({together})" in table([many])
    assert f"privacy: epsilon 3.000 at delta 1e-05, {together}" in " ".join(shown(many).split())
    unsaid = made(facts={"epsilon": 3.0, "delta": 1e-5})
    assert "epsilon 3.00 (neighbours not recorded, draws of public seed 0)" in table([unsaid])
    assert "neighbours not recorded" in shown(unsaid)


def salted(record: Record, salt: str) -> Record:
    return dataclasses.replace(record, spec={**record.spec, "salt": salt})


def randomised(seed: int = 0) -> Record:
    record = proved(seed, radius_unit="inserted, deleted or edited rows")
    return dataclasses.replace(record, spec={**record.spec, "defense": {"name": "bagging", "certify": {"alpha": 0.001}}})


def test_a_randomised_radius_stands_beside_whose_draws_it_speaks_of():
    one, several = randomised(), [randomised(seed) for seed in range(3)]
    assert "certified against inserted, deleted or edited rows, draws of public seed 0: " in shown(one)
    assert "in inserted, deleted or edited rows, draws of public seed 0: " in table([one])
    assert "in inserted, deleted or edited rows, draws of public seeds: " in table(several)
    assert radii(salted(one, "system")).endswith(", secret draws")
    assert radii(salted(one, "abc")).endswith(", draws of a public salt")


def test_a_deterministic_radius_speaks_of_no_draws():
    assert radii(proved(radius_unit="flipped labels")) == "flipped labels"
    assert "draws" not in shown(proved()) + table([proved()])


def test_an_epsilon_over_several_seeds_or_under_a_salt_says_whose_draws_it_speaks_of():
    several = [made(seed=seed, facts={"epsilon": 3.0, "delta": 1e-5, "adjacency": "replace one row"}) for seed in range(3)]
    assert "epsilon 3.00 (neighbours: replace one row, draws of public seeds)" in table(several)
    assert "neighbours: replace one row, secret draws" in shown(salted(several[0], "system"))
    assert "neighbours: replace one row, draws of a public salt" in table([salted(several[0], "abc")])


def test_the_certified_figure_says_whose_draws_a_randomised_radius_speaks_of(tmp_path):
    certified.draw([randomised()], [], tmp_path / "figure.svg")
    assert "inserted, deleted or edited rows, draws of public seeds" in (tmp_path / "figure.svg").read_text()


def covered(seed: int = 0, **more: float) -> Record:
    return made(seed=seed, counts={"cover": 136}, metrics={"c_acc": 0.9, "asr": 0.1, "removed": 100, "tpr": 0.3, **more})


def test_cover_rows_stand_beside_the_poison_that_a_filter_found():
    assert "| 136 cover rows, 97.5 (95.0 to 100.0) % of them removed |" in table([covered(seed, cover_removed=0.95 + seed / 20) for seed in (0, 1)])
    assert "TPR 30.0 %, cover rows removed 95.0 %" in shown(covered(cover_removed=0.95))
    assert "| 136 cover rows |" in table([covered()])
    assert "cover" not in table([made()]) + shown(made())


def test_what_is_said_of_malicious_clients_is_shown():
    record = made(facts={"malicious_assumed": 4, "malicious_worst": 6, "rounds": 20})
    assert malicious(record) == "malicious assumed 4, malicious worst 6"
    assert malicious(record) in table([record])
    assert malicious(record) in shown(record)
    assert malicious(made()) == ""


def test_the_interval_over_targets_is_computed_from_their_number_whatever_a_record_holds():
    record = made(undefended={"c_acc": 0.9, "asr": 0.95, "asr_interval": [0.76, 0.99]}, counts={"trials": 20})
    assert over_targets(record, record.undefended) == clopper_pearson(19, 20)
    assert "95 % interval of the undefended ASR 75.1 to 99.9, from 20 targets" in table([record])
    assert "undefended ASR over 20 targets: 75.1 % to 99.9 % (Clopper-Pearson, 95 %)" in shown(record)
    assert over_targets(made(), made().undefended) is None


def test_a_failed_seed_counts_in_a_table_and_is_named_and_a_skipped_one_does_not():
    records = [made(seed=0, counts={"classes": 2}), failed(1), made(seed=2, status="skipped", metrics={}, undefended={}, baseline={})]
    told = filled("<!-- records: digits -->\n<!-- end -->", records)
    assert "| 2 (1 failed) |" in told
    assert "| 70.0 (50.0 to 90.0) / 55.0 (10.0 to 100.0) |" in told
    assert "| spectral | 70.0 (50.0 to 90.0) | 70.0 (badnets) |" in filled("<!-- worst: digits -->\n<!-- end -->", records)


def test_a_band_reaches_from_the_smallest_seed_to_the_largest():
    assert band([[0.1, 0.9], [0.3, 0.5]]) == ([0.1, 0.5], [0.3, 0.9])


def test_the_certified_figure_names_the_unit_of_its_axis_or_that_of_each_line(tmp_path):
    old, flips = proved(), dataclasses.replace(proved(radius_unit="labels flipped"), command="python -m poisonbench defense=dpa net=mlp")
    for mine, told, untold in (([old], OLD, "labels flipped"), ([flips], "labels flipped", OLD)):
        certified.draw(mine, mine, tmp_path / "figure.svg")
        drawn = (tmp_path / "figure.svg").read_text()
        assert told in drawn
        assert untold not in drawn
    certified.draw([old, flips], [old, flips], tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert all(words in drawn for words in ("radius, in the unit of each line", f", in {OLD}", ", in labels flipped"))


def test_the_ledger_holds_a_mean_and_a_range():
    records = {record.key: record for record in (made(seed=seed, undefended={"c_acc_lost": seed / 10}, schema=1) for seed in range(3))}
    entry = dict.fromkeys(("claim", "source", "published", "unit", "certainty", "command", "ours", "verdict", "why"), "x")
    told = measured({**entry, "figure": "undefended.c_acc_lost", "records": list(records)}, records)
    assert told["ours"] == {"mean": 0.1, "range": [0.0, 0.2], "n": 3}
    assert "| 0.1 (0.0 to 0.2) | 3 |" in ledger_table([told])
    nested = {key: dataclasses.replace(record, undefended={"goal": dict(record.undefended)}, schema=2) for key, record in records.items()}
    assert measured({**entry, "figure": "undefended.c_acc_lost", "records": list(records)}, nested)["ours"] == told["ours"]


def test_a_block_can_choose_the_figures_of_goals_that_it_shows():
    record = dataclasses.replace(made(), undefended={"c_acc": 0.5, "goal": {"retrieved": 0.25, "ceiling": 1.0}})
    assert "ceiling" in filled("<!-- records: digits -->\n<!-- end -->", [record])
    chosen = filled("<!-- records: digits goal=retrieved,precision -->\n<!-- end -->", [record])
    assert "retrieved" in chosen.splitlines()[3]
    assert "ceiling" not in chosen


def test_a_bound_on_the_loss_stands_beside_the_loss():
    bounded = made(facts={"clean_hinge": 0.041, "hinge_bound": 0.399})
    assert "hinge loss on clean rows 0.041, at most 0.399 for any rows inserted within the budget" in table([bounded])
    assert "hinge loss" not in table([made(facts={"clean_hinge": 0.041})])
