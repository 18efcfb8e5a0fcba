#!/usr/bin/env bash
# Finding: ByzFL 0.0.11, SMEA and CAF, give different answers at each call: they estimate the largest eigenvalue by one random power iteration.
#
# Behaviour: SMEA averages the n - f vectors whose covariance has the smallest largest eigenvalue (Allouah et al., ICML 2023). This choice is
#   deterministic. The code estimates the eigenvalue by one step of power iteration from a random vector of the global generator, a new one
#   for each subset, so the choice of the subset is random. The same vectors give several answers, and most calls do not choose the subset
#   of the definition. CAF takes its directions and its stopping point from the same estimate; its answers also differ from call to call.
# Input: six vectors of five small whole numbers, f = 1; 200 calls after numpy.random.seed(0); the right subset from all six covariances.
# Output seen (Python 3.11, numpy 2.4.6):
#   SMEA: 6 answers in 200 calls, 50 of them those of the definition
#   CAF: 21 answers in 200 calls
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
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
answers = {rule: len({tuple(answer.round(9)) for answer in results}) for rule, results in found.items()}
hits = sum(np.allclose(answer, expected) for answer in found["SMEA"])
print(f"byzfl {version('byzfl')}, numpy {np.__version__}")
print(f"SMEA: {answers['SMEA']} answers in 200 calls, {hits} of them those of the definition")
print(f"CAF: {answers['CAF']} answers in 200 calls")
seen = [answers["SMEA"], hits, answers["CAF"]]
raise SystemExit(0 if seen == [6, 50, 21] else f"changed: {seen} and not [6, 50, 21]")
PY
