#!/usr/bin/env bash
# Finding: rank-bm25 0.2.2, BM25L: the score grows with every repetition of a word, without the limit that the method is defined with.
#
# Behaviour: BM25L (Lv and Zhai, SIGIR 2011) replaces the frequency f of a word by c = f / (1 - b + b * l / a), and its score (k1 + 1) * (c + d) /
#   (k1 + c + d) has the limit k1 + 1. The package multiplies this by f once more. So one document that repeats a word wins every question
#   with this word. The BM25Okapi of the same package saturates.
# Input: 50 documents of 200 words; in one of them a word occurs once, in another one 2, 20 and 200 times.
# Output seen (Python 3.11, numpy 2.4.6):
#   BM25L: 2 repetitions score 2.50 times one
#   BM25L: 20 repetitions score 37.27 times one
#   BM25L: 200 repetitions score 397.03 times one
#   BM25Okapi: 2 repetitions score 1.43 times one
#   BM25Okapi: 20 repetitions score 2.33 times one
#   BM25Okapi: 200 repetitions score 2.48 times one
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rank-bm25==0.2.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import rank_bm25

print(f"rank-bm25 {version('rank-bm25')}, numpy {np.__version__}")
ratio = {}
for kind in (rank_bm25.BM25L, rank_bm25.BM25Okapi):
    for times in (2, 20, 200):
        length = 200
        filler = [[f"w{text}-{place % 10}" for place in range(length)] for text in range(50)]
        once, often = ["asked", *filler[0][1:]], ["asked"] * times + filler[1][times:]
        scores = kind([once, often, *filler[2:]]).get_scores(["asked"])
        ratio[kind.__name__, times] = scores[1] / scores[0]
        print(f"{kind.__name__}: {times} repetitions score {scores[1] / scores[0]:.2f} times one")
same = ratio["BM25L", 200] > 100 and ratio["BM25Okapi", 200] < 2.5
raise SystemExit(0 if same else "changed: repetitions saturate now, or BM25Okapi does not any more")
PY
