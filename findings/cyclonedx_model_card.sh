#!/usr/bin/env bash
# Finding: cyclonedx-python-lib 11.12.0 reads a valid bill of materials and writes it without its model cards and its data, without a warning.
#
# Behaviour: its validator accepts a bill of CycloneDX 1.6 with the parts "modelCard" and "data" of components. Bom.from_json ignores both, and the bill
#   that is written from it, also of 1.6 and also valid, has lost them. A tool that reads and writes a bill with this library removes what the
#   model was trained on. Support is requested in issues 912 and 913 of CycloneDX/cyclonedx-python-lib, from 2025, open.
# Input: a bill with one model, which has a model card, and one set of data.
# Output seen (Python 3.11), with warnings as errors:
#   read: valid by the library's validator; model: modelCard, name, type; rows: data, name, type
#   written: valid by the library's validator; model: name, type; rows: name, type
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check cyclonedx-python-lib==11.12.0 jsonschema==4.26.0 referencing==0.37.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import json
import warnings
from importlib.metadata import version

from cyclonedx.model.bom import Bom
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

BILL = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "components": [
        {"type": "machine-learning-model", "name": "model", "modelCard": {"modelParameters": {"task": "classification"}}},
        {"type": "data", "name": "rows", "data": [{"type": "dataset", "name": "rows", "classification": "public"}]},
    ],
}


def told(bill):
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    parts = {each["name"]: sorted(key for key in each if key != "bom-ref") for each in bill["components"]}
    return "valid" if fault is None else f"invalid ({fault})", parts


def line(kind, bill):
    validity, parts = told(bill)
    print(f"{kind}: {validity} by the library's validator; " + "; ".join(f"{name}: {', '.join(parts[name])}" for name in ("model", "rows")))


print(f"cyclonedx-python-lib {version('cyclonedx-python-lib')}")
with warnings.catch_warnings():
    warnings.simplefilter("error")
    again = json.loads(JsonV1Dot6(Bom.from_json(BILL)).output_as_string())
line("read", BILL)
line("written", again)
same = told(BILL)[0] == told(again)[0] == "valid" and told(again)[1] == {"model": ["name", "type"], "rows": ["name", "type"]}
raise SystemExit(0 if same else "changed: model cards and data are kept, or refused, now")
PY
