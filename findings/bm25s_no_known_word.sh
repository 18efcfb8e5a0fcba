#!/usr/bin/env bash
# Finding: bm25s 0.3.16 returns the last documents, with score 0, for a question of which no document has a word.
#
# Behaviour: retrieve gives k documents for every question. Documents without a word of the question have score 0, and among equal scores its partial
#   sort takes the last ones. So a document that is appended to the index, such as one of an attacker, is "retrieved" by questions that it has nothing
#   to do with, and counts as a hit unless the caller looks at the score. The same happens beyond the last match of a question with few matches.
# Input: 100 documents of two words, then one more of two other words; a question of an unknown word, and one that matches a single document.
# Output seen (Python 3.11, numpy 2.4.6):
#   question without a known word, k=3: documents [100, 99, 98], scores [0.0, 0.0, 0.0]
#   question that matches document 7 alone, k=3: documents [7, 99, 98], 2 of them with score 0
#   with the appended document first: documents [100, 99, 98], which are others
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check bm25s==0.3.16 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import bm25s
import numpy as np

TEXTS = [["red", f"word{number}"] for number in range(100)]
EXTRA = ["blue", "green"]


def asked(texts, words):
    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    documents, scores = index.retrieve([words], k=3, show_progress=False)
    return documents[0].tolist(), scores[0].tolist()


print(f"bm25s {bm25s.__version__}, numpy {np.__version__}")
unknown, nothing = asked([*TEXTS, EXTRA], ["unknown"])
print(f"question without a known word, k=3: documents {unknown}, scores {nothing}")
one, scores = asked([*TEXTS, EXTRA], ["word7"])
print(f"question that matches document 7 alone, k=3: documents {one}, {scores.count(0)} of them with score 0")
moved, _ = asked([EXTRA, *TEXTS], ["unknown"])
print(f"with the appended document first: documents {moved}, which are others")
same = 100 in unknown and set(nothing) == {0} and one[0] == 7 and scores.count(0) == 2 and 0 not in moved
raise SystemExit(0 if same else "changed: documents with score 0 are not the last ones now")
PY
