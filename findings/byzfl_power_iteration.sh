#!/usr/bin/env bash
# Finding: ByzFL 0.0.11, SMEA and CAF, answer otherwise at each call: their largest eigenvalue is one power iteration from a random vector.
#
# Behaviour: SMEA averages the n - f vectors whose covariance has the smallest largest eigenvalue (Allouah et al., ICML 2023), a choice without
#   chance in it. The eigenvalue is estimated by one step of power iteration, which starts at a vector from the global generator, anew for
#   each subset, so subsets are compared by chance. The same vectors give several answers, and most calls do not choose the subset of
#   the definition. CAF takes its directions and its stopping point from the same estimate; its answers differ from call to call as well.
# Input: six vectors of five small whole numbers, f = 1; 200 calls after numpy.random.seed(0); the right subset by all six covariances.
# Output seen (Python 3.11, numpy 2.4.6):
#   SMEA: 6 answers in 200 calls, 50 of them those of the definition
#   CAF: 21 answers in 200 calls
# The script ends with 0 if this is still so, and fails if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check byzfl==0.0.11 numpy==2.4.6 torch==2.14.1
"$folder/venv/bin/python" -W ignore - <<'PY'
import itertools
from importlib.metadata import version

import byzfl
import numpy as np

vectors = np.random.default_rng(1).integers(-9, 10, size=(6, 5)).astype(float)


def largest_eigenvalue(rows):
    return np.linalg.eigvalsh(np.cov(rows.T, bias=True))[-1]


right = min(itertools.combinations(range(6), 5), key=lambda chosen: largest_eigenvalue(vectors[list(chosen)]))
expected = vectors[list(right)].mean(0)
np.random.seed(0)
found = {rule: [getattr(byzfl, rule)(f=1)(vectors) for _ in range(200)] for rule in ("SMEA", "CAF")}
answers = {rule: len({tuple(answer.round(9)) for answer in told}) for rule, told in found.items()}
hits = sum(np.allclose(answer, expected) for answer in found["SMEA"])
print(f"byzfl {version('byzfl')}, numpy {np.__version__}")
print(f"SMEA: {answers['SMEA']} answers in 200 calls, {hits} of them those of the definition")
print(f"CAF: {answers['CAF']} answers in 200 calls")
seen = [answers["SMEA"], hits, answers["CAF"]]
raise SystemExit(0 if seen == [6, 50, 21] else f"changed: {seen} and not [6, 50, 21]")
PY
