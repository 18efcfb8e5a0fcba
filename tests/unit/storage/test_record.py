import dataclasses
import json

import pytest

from poisonbench.core.errors import DataError
from poisonbench.storage.record import Record, provenance, read
from tests.conftest import SPEC

RECORD = Record(spec=SPEC, metrics={"c_acc": 0.5, "certified": [1.0]}, cost={"seconds": {"fit": 1.0}}, provenance={"device": "cpu"})


def test_a_record_survives_the_round_trip(tmp_path):
    assert read(RECORD.write(tmp_path)) == RECORD


def test_cost_provenance_and_command_do_not_change_the_digest_and_figures_do():
    same = [dataclasses.replace(RECORD, cost={}), dataclasses.replace(RECORD, provenance={"device": "cuda"}), dataclasses.replace(RECORD, command="x")]
    assert {record.result_digest for record in same} == {RECORD.result_digest}
    others = [dataclasses.replace(RECORD, metrics={"c_acc": 0.6}), dataclasses.replace(RECORD, spec={"seed": 1}), dataclasses.replace(RECORD, status="failed")]
    assert len({record.result_digest for record in others} | {RECORD.result_digest}) == 4


def test_a_record_changed_by_hand_is_refused(tmp_path):
    path = RECORD.write(tmp_path)
    whole = json.loads(path.read_text())
    whole["metrics"]["c_acc"] = 0.99
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match="changed after it was written"):
        read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1, "result_digest": "", "nonsense": 1}'])
def test_what_is_no_record_is_refused_in_words(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is not a record"):
        read(path)


def test_a_record_of_another_schema_is_refused(tmp_path):
    path = RECORD.write(tmp_path)
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(DataError, match="schema 3; this version reads 1 and 2"):
        read(path)


OLD = dataclasses.replace(
    RECORD,
    schema=1,
    metrics={"c_acc": 0.5, "asr": 0.1, "tpr": 0.9, "certified": [1.0], "c_acc_lost": 0.2},
    counts={"clients": 20},
    undefended={"c_acc_lost": 0.3},
)


def test_a_record_of_schema_1_is_read_and_says_which_figures_the_referee_has_not_seen(tmp_path):
    path = OLD.write(tmp_path)
    written = json.loads(path.read_text())
    assert written["schema"] == 1
    assert "assumed" not in written
    told = read(path)
    assert told == OLD
    assert len(told.unseen) == 5
    assert any("ASR" in sentence for sentence in told.unseen)
    assert dict(told.goal("metrics")) == {"c_acc_lost": 0.2}
    assert RECORD.unseen == ()


def test_a_record_does_not_change_its_schema_by_hand(tmp_path):
    for record, name in ((OLD, '"schema": 1'), (RECORD, '"schema": 2')):
        path = record.write(tmp_path)
        path.write_text(path.read_text().replace(name, f'"schema": {3 - int(name[-1])}'))
        with pytest.raises(DataError):
            read(path)


def test_fields_that_came_later_are_no_fields_of_schema_1(tmp_path):
    path = OLD.write(tmp_path)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "assumed": {"defense.sanitize.expected_rate": {"value": 0.05, "source": "invented"}}}))
    with pytest.raises(DataError, match="it has schema 1, but fields of schema 2"):
        read(path)


def test_goal_figures_of_schema_2_lie_apart():
    assert dict(dataclasses.replace(RECORD, metrics={"c_acc": 0.5, "c_acc_lost": 0.9, "goal": {"c_acc_lost": 0.2}}).goal("metrics")) == {"c_acc_lost": 0.2}


def test_a_figure_that_is_not_finite_is_text_and_the_file_stays_json(tmp_path):
    path = dataclasses.replace(RECORD, metrics={"perplexity": float("inf")}).write(tmp_path)
    assert json.loads(path.read_text())["metrics"]["perplexity"] == "inf"
    assert read(path).metrics["perplexity"] == "inf"


def test_provenance_names_versions_and_the_commit_as_text():
    told = provenance()
    assert set(told) == {"versions", "commit", "dirty", "machine", "processor"}
    assert "torch" in told["versions"]
    assert told["processor"]
