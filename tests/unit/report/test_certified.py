"""Certificates and attacks on one axis: who belongs to whom, and that the figure holds both."""

from dataclasses import replace

import pytest

from poisonbench.config.compose import tree_of
from poisonbench.report import certified
from poisonbench.runner.pipeline import run
from poisonbench.storage.record import Record
from tests.unit.report.test_leaderboard import made as made_up

WORDS = ("defense=dpa", "defense.train.parts=5", "defense.certify.change=flip")


def made(tiny, store, *words: str):
    return replace(run(tiny(*WORDS, *words), store), command=" ".join(["python -m poisonbench", *words]))


def test_an_attacked_record_finds_the_certificate_of_its_own_run(tiny, store, tmp_path):
    clean, other = made(tiny, store), made(tiny, store, "seed=1")
    attacked = made(tiny, store, "attack=label_flip", "threat.budget.count=3")
    assert attacked.metrics["changed_rows"] == {"flipped labels": 3}
    alone = made(tiny, store, "attack=label_flip", "threat.budget.count=3", "seed=2")
    records = [clean, other, attacked, alone]
    assert certified.promises([attacked, alone], records) == {attacked.key: clean}
    certified.draw([attacked], records, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "proved: dpa" in drawn
    assert "under label_flip" in drawn
    certified.draw([clean, other], records, tmp_path / "plain.svg")
    assert "under" not in (tmp_path / "plain.svg").read_text()


def test_no_point_is_drawn_where_the_radius_counts_other_changes_than_the_attack_makes(tiny, store, tmp_path):
    insert = "defense.certify.change=insert"
    clean, attacked = made(tiny, store, insert), made(tiny, store, insert, "attack=label_flip", "threat.budget.count=3")
    certified.draw([attacked], [clean, attacked], tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "inserted or deleted rows" in drawn
    assert "under label_flip" not in drawn


def attacked_in(unit: str | None, changed: dict[str, int] | None, **counts: int) -> Record:
    more = {name: value for name, value in (("radius_unit", unit), ("changed_rows", changed)) if value is not None}
    return made_up(metrics={"c_acc": 0.9, "certified": [0.9], **more}, counts={"poisoned": 3, **counts})


@pytest.mark.parametrize(
    ("unit", "changed", "count"),
    [
        ("flipped labels", {"flipped labels": 3}, 3),
        ("flipped labels", {"edited rows": 3}, None),
        ("flipped labels", {"flipped labels": 2, "edited rows": 1}, None),
        ("inserted or deleted rows", {"inserted rows": 3}, 3),
        ("inserted or deleted rows", {"flipped labels": 3}, None),
        ("inserted, deleted or edited rows", {"inserted rows": 1, "edited rows": 2}, 3),
        ("edited rows", {"edited rows": 3}, 3),
        ("changed pixels of the test picture", {"edited rows": 3}, None),
        (None, {"edited rows": 3}, None),
        ("flipped labels", None, None),
    ],
)
def test_changes_are_counted_in_the_unit_of_the_radius_or_not_at_all(unit, changed, count):
    assert certified.changed(attacked_in(unit, changed)) == count


def test_trials_with_an_attack_each_are_no_single_attack():
    assert certified.changed(attacked_in("flipped labels", {"flipped labels": 3}, trials=2)) is None


def test_the_experiment_proves_what_its_attack_changes():
    tree = tree_of(["+experiment=poison_below_certificate"])
    assert tree["attack"]["data"]["_target_"].endswith(".LabelFlip")
    assert tree["defense"]["certify"]["change"] == "flip"


def died(record: Record) -> Record:
    parts = ("metrics", "undefended", "baseline", "counts", "facts", "curves")
    return replace(record, status="failed", reason="out of memory", **{part: {} for part in parts})


def certified_run(seed: int, attack: str = "label_flip", *, defense: str = "dpa") -> Record:
    record = made_up(attack=attack, defense=defense, seed=seed, counts={"poisoned": 0 if attack == "none" else 3}, metrics={"c_acc": 0.9})
    changes = {} if attack == "none" else {"changed_rows": {"flipped labels": 3}}
    spec = {**record.spec, "defense": {"name": defense, "certify": {"change": "flip"}}}
    metrics = {"c_acc": 0.9, "certified": [0.9, 0.8], "radius_unit": "flipped labels", **changes}
    return replace(record, spec=spec, metrics=metrics, command=f"python -m poisonbench seed={seed} +experiment=poison_below_certificate")


def test_a_failed_seed_is_named_beside_the_curve_of_the_others(tmp_path):
    records = [*(certified_run(seed, "none") for seed in range(2)), died(certified_run(2, "none"))]
    assert certified.of(records, "poison_below_certificate") == records
    certified.draw(records, records, tmp_path / "figure.svg")
    assert "dpa (1 seed failed)" in (tmp_path / "figure.svg").read_text()
    assert certified.of([died(record) for record in records], "poison_below_certificate") == []


def test_a_failed_seed_is_named_beside_the_points_and_a_failed_certificate_beside_its_curve(tmp_path):
    clean, attacked = [certified_run(seed, "none") for seed in range(3)], [certified_run(seed) for seed in range(3)]
    certified.draw(attacked, [*attacked, *clean], tmp_path / "whole.svg")
    assert "failed" not in (tmp_path / "whole.svg").read_text()
    mine = [*attacked[:1], *map(died, attacked[1:])]
    certified.draw(mine, [*mine, *clean[:2], died(clean[2])], tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "proved: dpa (1 seed failed)" in drawn
    assert "under label_flip (2 seeds failed)" in drawn


def test_a_failed_seed_of_a_figure_with_two_units_is_named_at_a_line_of_its_name(tmp_path):
    other = certified_run(0, "none", defense="bagging")
    other = replace(other, metrics={**other.metrics, "radius_unit": "edited rows"})
    records = [certified_run(0, "none"), died(certified_run(1, "none")), other]
    certified.draw(records, records, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "dpa, in flipped labels (1 seed failed)" in drawn
    assert "bagging, in edited rows<" in drawn


def test_labels_are_sorted_by_their_numbers():
    from poisonbench.report.certified import _by_number

    labels = ["ss_dpa, parts=1200", "ss_dpa, parts=50", "dpa, ridge=1.5", "ss_dpa, parts=250", "ss_dpa", "dpa, ridge=0.5"]
    assert sorted(labels, key=_by_number) == ["dpa, ridge=0.5", "dpa, ridge=1.5", "ss_dpa", "ss_dpa, parts=50", "ss_dpa, parts=250", "ss_dpa, parts=1200"]
