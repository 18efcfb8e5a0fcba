#!/usr/bin/env bash
# Finding: mlcroissant 1.1.1 never compares the SHA-256 of files that it reads as a FileSet, so a changed file is read without an error.
#
# Behaviour: the description lists each file with its SHA-256, as FileObjects. A table that is read as a FileObject is compared with its digest, and a
#   changed one is refused. The same changed bytes are returned without an error or a warning if the records come from a FileSet that covers the file,
#   which is how folders of pictures are described. Validation compares no digest in either case.
# Input: a folder with two texts of one line, their correct digests, a record set that reads one of them as a FileObject with a column and one that reads
#   both as a FileSet; then one byte of both texts is changed.
# Output seen (Python 3.11, pandas 3.1.1), without the log, which has nothing but recommended properties that are missing:
#   before the change: FileObject ['1'], FileSet ['x\n1\n', 'x\n2\n']
#   after the change, validation: 0 errors
#   after the change: FileObject GenerationError, FileSet ['x\n7\n', 'x\n8\n']
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
FILES = {"a.csv": "x\n1\n", "b.csv": "x\n2\n"}


def field(name, source):
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": "sc:Text", "source": source}


def file(name):
    digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
    return {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "encodingFormat": "text/csv", "sha256": digest}


for name, text in FILES.items():
    Path(name).write_text(text)
every = {"@type": "cr:FileSet", "@id": "all", "name": "all", "encodingFormat": "text/csv", "includes": "*.csv"}
one = field("one/x", {"fileObject": {"@id": "a.csv"}, "extract": {"column": "x"}})
both = field("both/text", {"fileSet": {"@id": "all"}, "extract": {"fileProperty": "content"}})
whole = {
    "@context": CONTEXT,
    "@type": "sc:Dataset",
    "conformsTo": "http" + "://mlcommons.org/croissant/1.0",
    "name": "texts",
    "distribution": [*map(file, FILES), every],
    "recordSet": [{"@type": "cr:RecordSet", "@id": name, "name": name, "field": [each]} for name, each in (("one", one), ("both", both))],
}
Path("croissant.json").write_text(json.dumps(whole))


def opened():
    return mlcroissant.Dataset(jsonld="croissant.json")


def rows(records):
    try:
        return sorted(str(value.decode() if isinstance(value, bytes) else value) for row in opened().records(records) for value in row.values())
    except mlcroissant.GenerationError:
        return "GenerationError"


print(f"mlcroissant {version('mlcroissant')}")
before = rows("one"), rows("both")
print(f"before the change: FileObject {before[0]}, FileSet {before[1]}")
for name, text in FILES.items():
    Path(name).write_text(text.replace("1", "7").replace("2", "8"))
errors = len(opened().metadata.issues.errors)
after = rows("one"), rows("both")
print(f"after the change, validation: {errors} errors")
print(f"after the change: FileObject {after[0]}, FileSet {after[1]}")
same = before == (["1"], ["x\n1\n", "x\n2\n"]) and errors == 0 and after == ("GenerationError", ["x\n7\n", "x\n8\n"])
raise SystemExit(0 if same else "changed: files of a FileSet are compared with their digests now, or files by themselves are not")
PY
