#!/usr/bin/env bash
# Finding: mlcroissant 1.1.1 refuses to read a file whose correct SHA-256 is written in capital letters, after its validation accepted it.
#
# Behaviour: digests in hexadecimal are the same number in small and in capital letters, and some tools write capitals (certutil and PowerShell's
#   Get-FileHash). mlcroissant compares the letters. Validation has no error, and reading raises GenerationError: "is not identical".
# Input: a CSV file of one column and one row, with its correct digest in small and in capital letters.
# Output seen (Python 3.11, pandas 3.1.1), without the log, which has nothing but recommended properties that are missing:
#   small letters: validation 0 errors, reading ['1']
#   capital letters: validation 0 errors, reading GenerationError
#     caused by: Hash of downloaded file FOLDER/a.csv is not identical with the reference in the Croissant JSON-LD.
#       Expected: DAFF832F... - Got: daff832f...
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlcroissant==1.1.1 pandas==3.1.1 rdflib==7.6.0 scipy==1.17.1 numpy==2.4.6
mkdir "$folder/data"
cd "$folder/data"
HOME="$folder" "$folder/venv/bin/python" -W ignore - <<'PY'
import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path

import mlcroissant

logging.disable(logging.CRITICAL)
CONTEXT = mlcroissant.Metadata(name="any").to_json()["@context"]
Path("a.csv").write_text("x\n1\n")
DIGEST = hashlib.sha256(Path("a.csv").read_bytes()).hexdigest()


def outcome(digest):
    x = {"@type": "cr:Field", "@id": "rows/x", "name": "x", "dataType": "sc:Text", "source": {"fileObject": {"@id": "a"}, "extract": {"column": "x"}}}
    whole = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http" + "://mlcommons.org/croissant/1.0",
        "name": "table",
        "distribution": [{"@type": "cr:FileObject", "@id": "a", "name": "a", "contentUrl": "a.csv", "encodingFormat": "text/csv", "sha256": digest}],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": [x]}],
    }
    Path("croissant.json").write_text(json.dumps(whole))
    found = mlcroissant.Dataset(jsonld="croissant.json")
    errors = len(found.metadata.issues.errors)
    try:
        return errors, str([row["rows/x"].decode() for row in found.records("rows")]), ""
    except mlcroissant.GenerationError as error:
        return errors, "GenerationError", str(error.__cause__)


print(f"mlcroissant {version('mlcroissant')}")
seen = {"small": outcome(DIGEST), "capital": outcome(DIGEST.upper())}
for letters, (errors, read, cause) in seen.items():
    print(f"{letters} letters: validation {errors} errors, reading {read}")
    if cause:
        print(f"  caused by: {cause}")
same = seen["small"][:2] == (0, "['1']") and seen["capital"][:2] == (0, "GenerationError") and "is not identical" in seen["capital"][2]
raise SystemExit(0 if same else "changed: a digest in capital letters is accepted now, or refused by the validation")
PY
