#!/usr/bin/env bash
# Finding: faiss 1.15.1, IndexFlatIP: which of several equal vectors comes first changes with the number of neighbours that are asked for.
#
# Behaviour: equal vectors have equal scores. For a larger k the same index returns other copies of a vector, or the same ones in another order, so the
#   first hits for k=5 are not those for k=100. An attacker's copies of a passage, and the passage itself, change places when a reader is given more
#   passages, and figures at k are no prefix of figures at a larger k.
# Input: 200 vectors of small whole numbers, of which 20 differ; 20 questions; k from 1 to 200. All products are exact in float32.
# Output seen (Python 3.11, numpy 2.4.6):
#   k=1: the hits of 0 of 20 questions are the first 1 of those for k=200; first question: [0]
#   k=5: the hits of 0 of 20 questions are the first 5 of those for k=200; first question: [80, 60, 40]
#   k=50: the hits of 17 of 20 questions are the first 50 of those for k=200; first question: [180, 160, 140]
#   k=99: the hits of 12 of 20 questions are the first 99 of those for k=200; first question: [180, 160, 140]
#   k=100: the hits of 13 of 20 questions are the first 100 of those for k=200; first question: [180, 160, 140]
#   k=150: the hits of 17 of 20 questions are the first 150 of those for k=200; first question: [180, 160, 140]
#   k=200, first question: [180, 160, 140]
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import faiss
import numpy as np

rng = np.random.default_rng(0)
different = rng.integers(-3, 4, size=(20, 8)).astype(np.float32)
vectors = different[np.arange(200) % 20]
index = faiss.IndexFlatIP(8)
index.add(vectors)
print(f"faiss {faiss.__version__}, numpy {np.__version__}")
_, whole = index.search(different, 200)
prefix = {}
for k in (1, 5, 50, 99, 100, 150):
    scores, found = index.search(different, k)
    assert np.array_equal(scores, -np.sort(-(different @ vectors.T), axis=1)[:, :k]), "the scores are right"
    prefix[k] = int((found == whole[:, :k]).all(1).sum())
    print(f"k={k}: the hits of {prefix[k]} of 20 questions are the first {k} of those for k=200; first question: {found[0, :3].tolist()}")
print(f"k=200, first question: {whole[0, :3].tolist()}")
raise SystemExit(0 if min(prefix.values()) < 20 else "changed: the hits for a smaller k are the first ones for a larger k now")
PY
