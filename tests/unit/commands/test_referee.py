"""Records of schema 1 under today's referee, without training their victims again."""

import dataclasses
import json

import pytest

from poisonbench.cli import entry
from poisonbench.storage.record import LATER, Record, read
from tests.conftest import tiny_words


@pytest.fixture
def old(tmp_path, monkeypatch):
    """Return a function that runs some words and writes their record as schema 1 had it."""
    monkeypatch.chdir(tmp_path)

    def make(*words: str, **changes: object):
        assert entry([*tiny_words(*words), "results_dir=out"]) == 0
        (path,) = (tmp_path / "out" / "records").glob("*.json")
        record = read(path)
        path.unlink()
        goals = dict(record.goal("metrics"))
        fields = {name: value for name, value in dataclasses.asdict(record).items() if name not in LATER}
        metrics = {name: value for name, value in record.metrics.items() if name not in ("goal", "radius_unit", "changed_rows")} | goals
        spec = {part: {k: v for k, v in told.items() if k != "needs"} if isinstance(told, dict) else told for part, told in record.spec.items()}
        counts = {name: value for name, value in record.counts.items() if name != "classes"}
        told = Record(**{**fields, "metrics": metrics, "counts": counts, "spec": spec, "schema": 1, **changes})
        return record, told.write(tmp_path / "old")

    return make


def test_a_record_whose_attack_holds_is_written_in_todays_schema(old, capsys, tmp_path):
    today, path = old("attack=backdoor", "defense=oracle")
    before = read(path)
    assert before.unseen
    assert entry(["referee", str(path)]) == 0
    assert "poisoned rows pass today's checks; no victim was trained again; write=true writes it" in capsys.readouterr().out
    assert read(path) == before  # without write=true nothing is written
    assert entry(["referee", str(path), "write=true"]) == 0
    (written,) = (tmp_path / "old").glob("*.json")
    after = read(written)
    assert after.result_digest == today.result_digest
    assert after.spec["defense"]["needs"] == ["truth"]
    assert after.unseen == ()
    assert after.provenance["refereed"]["from"] == before.result_digest


def test_a_certified_record_is_told_what_its_radii_count_and_what_its_attack_changed(old, tmp_path):
    today, path = old("attack=label_flip", "threat.budget.count=3", "defense=dpa", "defense.train.parts=5")
    assert {"radius_unit", "changed_rows"} <= today.metrics.keys() - read(path).metrics.keys()
    assert entry(["referee", str(path), "write=true"]) == 0
    (written,) = (tmp_path / "old").glob("*.json")
    assert read(written).result_digest == today.result_digest


def test_a_skipped_record_gets_todays_reason(old, tmp_path):
    _, path = old("attack=backdoor", "defense=krum", reason="some other words")
    assert entry(["referee", str(path), "write=true"]) == 0
    (written,) = (tmp_path / "old").glob("*.json")
    assert "has no place for defense.aggregate" in read(written).reason


@pytest.mark.parametrize(
    ("words", "changes", "says"),
    [
        (("attack=federated",), {}, "given the malicious clients before all others"),
        (("attack=canaries",), {}, "a defense could recognise them"),
        (("attack=random_label",), {}, "counted as poison; today they are counted separately"),
        (("attack=backdoor",), {"keys": {"fit undefended": "fit-0"}}, "trained on other rows"),
        (("attack=backdoor",), {"status": "skipped"}, "can be run today"),
    ],
)
def test_a_record_that_may_come_out_otherwise_has_to_be_made_again(old, capsys, words, changes, says):
    _, path = old(*words, **changes)
    before = path.read_text()
    assert entry(["referee", str(path), "write=true"]) == 1
    out = capsys.readouterr().out
    assert "its figures may be different today, because" in out
    assert f"run its command again: {read(path).command}" in out
    assert says in out
    assert path.read_text() == before


def test_a_record_of_another_version_of_a_plugin_has_to_be_made_again(old, capsys):
    _, path = old("attack=backdoor")
    whole = json.loads(path.read_text())
    spec = whole["spec"]
    spec["attack"]["data"]["version"] = 0
    path = dataclasses.replace(read(path), spec=spec).write(path.parent)
    assert entry(["referee", str(path)]) == 1
    assert "its attack has other settings or another version today: data" in capsys.readouterr().out


def test_no_record_is_a_sentence(capsys):
    assert entry(["referee"]) == 2
    assert "give the paths of records" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("attack=canaries",), ("attack=random_label",), ("attack=rag",)], ids=["injected", "cover", "passages"])
def test_a_record_of_today_with_injected_or_cover_rows_passes(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert entry(tiny_words(*words)) == 0
    (path,) = tmp_path.glob("results/records/*.json")
    capsys.readouterr()
    assert entry(["referee", str(path)]) == 0
    assert "pass today's checks" in capsys.readouterr().out
