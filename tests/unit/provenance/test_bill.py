"""Bills of materials: valid by CycloneDX's own validator, with the figures of the record, and equal for equal records."""

import dataclasses
import json

import pytest

pytest.importorskip("cyclonedx", reason="pip install 'cyclonedx-python-lib[json-validation]'")

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from poisonbench.cli import entry
from poisonbench.core.errors import DataError
from poisonbench.core.plugins import HOME
from poisonbench.provenance.bill import bill, validated
from poisonbench.storage.record import Record, read
from tests.conftest import SPEC

DIGEST = "ab" * 32
RECORD = Record(
    spec={**SPEC, "task": {"name": "blobs", "digest": DIGEST, "rows": {"train": 380, "test": 100}}, "attack": {"name": "badnets"}},
    metrics={"c_acc": 0.9, "asr": 0.25, "r_acc": None, "asr_interval": [0.1, 0.5]},
    undefended={"c_acc": 0.95, "asr": 1.0},
    baseline={"c_acc": 0.96, "asr": float("nan")},
    counts={"train": 380, "test": 100, "probe": 80, "poisoned": 19, "poisoned_kept": 3},
    provenance={"versions": {"python": "3.11.7", "torch": "2.14.1+cu130", "numpy": "2.4.6"}},
)


def parts(whole: dict, kind: str) -> list[dict]:
    return [each for each in whole["components"] if each["type"] == kind]


def valid(whole: dict) -> bool:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(whole)) is None


def test_the_figures_of_the_model_card_are_those_of_the_record():
    (model,) = parts(bill(RECORD, {}), "machine-learning-model")
    told = [(each["type"], each["value"], each["slice"]) for each in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]]
    assert told == [
        ("C-Acc", "0.9", "defended model, 100 rows"),
        ("ASR", "0.25", "defended model, 80 rows"),
        ("C-Acc", "0.95", "model trained without the defense, 100 rows"),
        ("ASR", "1.0", "model trained without the defense, 80 rows"),
        ("C-Acc", "0.96", "model trained on the clean rows, 100 rows"),
        ("ASR", "nan", "model trained on the clean rows, 80 rows"),
    ]
    interval = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][1]["confidenceInterval"]
    assert interval == {"lowerBound": "0.1", "upperBound": "0.5"}


def test_the_data_have_their_digest_and_the_licence_that_is_given():
    given = {"license": "CC-BY-4.0", "url": "https://example.org/data", "creator": "Ann", "name": "Blobs"}
    whole = bill(RECORD, given)
    assert valid(whole)
    clean, received = parts(whole, "data")
    assert clean["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]
    assert clean["licenses"] == [{"expression": "CC-BY-4.0", "acknowledgement": "declared"}]
    assert clean["name"] == received["pedigree"]["ancestors"][0]["name"] == "Blobs"
    assert "19 of the 380 training rows are poison" in received["description"]
    assert "licenses" not in parts(bill(RECORD, {}), "data")[0]


@pytest.mark.parametrize("told", ["see the README, please", "proprietary", "MIT AND mine", "mit"])
def test_a_licence_that_is_no_known_spdx_identifier_is_a_name(told):
    whole = bill(RECORD, {"license": told})
    assert valid(whole)
    assert parts(whole, "data")[0]["licenses"] == [{"license": {"name": told, "acknowledgement": "declared"}}]


def test_licences_may_be_joined():
    whole = bill(RECORD, {"license": "MIT OR Apache-2.0"})
    assert valid(whole)
    assert parts(whole, "data")[0]["licenses"] == [{"expression": "MIT OR Apache-2.0", "acknowledgement": "declared"}]


@pytest.mark.parametrize(("poisoned", "said"), [
    (136, "; 68 of the 1365 training rows are poison in each of 2 trials. "),
    (137, "; 137 rows in 2 training sets of 1365 rows are poison. "),
])  # fmt: skip
def test_the_poison_of_several_trials_is_told_for_each(poisoned, said):
    """A record has the sum over its trials."""
    record = dataclasses.replace(RECORD, counts={"train": 1365, "test": 100, "probe": 2, "poisoned": poisoned, "trials": 2})
    assert said in parts(bill(record, {}), "data")[1]["description"]


@pytest.mark.parametrize(("poisoned", "said"), [(19, "contain rows that an attack changed"), (0, "An attacker took part in the training.")])
def test_the_risk_says_what_the_attacker_did(poisoned, said):
    (model,) = parts(bill(dataclasses.replace(RECORD, counts={**RECORD.counts, "poisoned": poisoned}), {}), "machine-learning-model")
    assert said in model["modelCard"]["considerations"]["ethicalConsiderations"][0]["name"]


def test_the_libraries_are_those_of_the_record():
    whole = bill(RECORD, {})
    assert [(each["name"], each["version"]) for each in parts(whole, "library")] == [("numpy", "2.4.6"), ("torch", "2.14.1+cu130")]
    assert [each["purl"] for each in parts(whole, "library")] == ["pkg:pypi/numpy@2.4.6", "pkg:pypi/torch@2.14.1%2Bcu130"]
    assert [each["version"] for each in parts(whole, "platform")] == ["3.11.7"]


def test_equal_records_give_equal_bills_and_other_results_another_serial_number():
    assert bill(RECORD, {}) == bill(dataclasses.replace(RECORD), {})
    other = dataclasses.replace(RECORD, metrics={"c_acc": 0.8})
    assert bill(other, {})["serialNumber"] != bill(RECORD, {})["serialNumber"]


def test_a_run_without_an_attack_has_one_data_set_and_no_warning():
    plain = dataclasses.replace(RECORD, spec={**RECORD.spec, "attack": {"name": "none"}}, counts={"train": 380, "test": 100, "poisoned": 0})
    whole = bill(plain, {})
    assert valid(whole)
    assert len(parts(whole, "data")) == 1
    assert "ethicalConsiderations" not in parts(whole, "machine-learning-model")[0]["modelCard"]["considerations"]


SOME = sorted((HOME / "results" / "records").glob("*.json"))[::40]


@pytest.mark.parametrize("path", SOME, ids=[path.stem for path in SOME])
def test_the_bill_of_a_published_record_is_valid(path):
    record = read(path)
    if record.status == "done":
        assert valid(bill(record, {"license": "CC0-1.0"}))


def test_references_lead_to_components():
    whole = bill(RECORD, {})
    known = {each["bom-ref"] for each in whole["components"]}
    assert len(known) == len(whole["components"])
    assert {ref for each in whole["dependencies"] for ref in (each["ref"], *each.get("dependsOn", ()))} == known
    (model,) = parts(whole, "machine-learning-model")
    assert {each["ref"] for each in model["modelCard"]["modelParameters"]["datasets"]} < known


def test_the_library_would_drop_the_model_card_and_the_data_without_a_warning():
    """cyclonedx-python-lib 11.12; why the JSON is written directly."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    again = json.loads(JsonV1Dot6(Bom.from_json(json.loads(json.dumps(bill(RECORD, {}))))).output_as_string())
    assert not any({"modelCard", "data"} & each.keys() for each in again["components"])


def test_an_invalid_bill_is_refused():
    whole = bill(RECORD, {})
    assert validated(json.dumps(whole)) == "valid by the schema of CycloneDX 1.6"
    with pytest.raises(DataError, match=r"no valid CycloneDX 1\.6, so nothing was written"):
        validated(json.dumps({**whole, "surprise": 1}))


def test_the_command_writes_a_valid_bill_without_a_time_of_writing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = RECORD.write(tmp_path)
    words = ["provenance", "bom", str(path), "license=MIT"]
    assert entry(words) == 0
    assert "valid by the schema of CycloneDX 1.6" in capsys.readouterr().out
    out = tmp_path / f"{path.stem}.cdx.json"
    first = out.read_bytes()
    assert valid(json.loads(first))
    assert b"timestamp" not in first
    assert entry(words) == 0
    assert out.read_bytes() == first
    told = {each["name"]: each["value"] for each in json.loads(first)["metadata"]["properties"]}
    assert told["poisonbench:record"] == read(path).key
    assert told["poisonbench:result_digest"] == read(path).result_digest


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = RECORD.write(tmp_path)
    skipped = dataclasses.replace(RECORD, status="skipped", spec={**RECORD.spec, "seed": 1}).write(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    for words, said in {
        (str(skipped),): "is skipped, so it has no model",
        ("other.json",): "is not a record",
        ("missing.json",): "is not a record",
        (str(path), "out=other.json"): "is no CycloneDX bill",
        (str(path), f"out={path}"): "is no CycloneDX bill",
        (str(path), f"out={tmp_path}"): "this is a folder; name a file",
        (str(path), "url=http://[bad"): "no valid CycloneDX 1.6, so nothing was written",
    }.items():
        assert entry(["provenance", "bom", *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
