"""Certificates and attacks on one axis: who belongs to whom, and that the figure holds both."""

from dataclasses import replace

import pytest

from poisonbench.commands.compose import tree_of
from poisonbench.pipeline import run
from poisonbench.record import Record
from poisonbench.report import certified
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
