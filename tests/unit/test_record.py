import dataclasses
import json

import pytest

from poisonbench.core.errors import DataError
from poisonbench.record import Record, provenance, read
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
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(DataError, match="schema 2"):
        read(path)


def test_a_figure_that_is_not_finite_is_text_and_the_file_stays_json(tmp_path):
    path = dataclasses.replace(RECORD, metrics={"perplexity": float("inf")}).write(tmp_path)
    assert json.loads(path.read_text())["metrics"]["perplexity"] == "inf"
    assert read(path).metrics["perplexity"] == "inf"


def test_provenance_names_versions_and_the_commit_as_text():
    told = provenance()
    assert set(told) == {"versions", "commit", "dirty", "machine", "processor"}
    assert "torch" in told["versions"]
    assert told["processor"]
