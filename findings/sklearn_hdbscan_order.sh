#!/usr/bin/env bash
# Finding: scikit-learn 1.9.1, HDBSCAN, finds other clusters if the rows are in another order, from 6 to 17 of them on the same rows.
#
# Behaviour: the distance that HDBSCAN uses between two rows is at least the distance of either to its k-th neighbour, so that many distances are
#   equal, and among equal ones the order of the rows decides which joins the tree. This needs no repeated rows: rows of the normal distribution,
#   all distinct, give other clusters in another order too. algorithm="brute" and algorithm="kd_tree" also disagree on the same rows in the same
#   order. There is no random step, and each call with the same order gives the same clusters.
# Input: 300 rows of four whole numbers from 0 to 3, and 300 distinct rows of two normal numbers; 20 orders of each; min_cluster_size=5.
# Output seen (Python 3.11, numpy 2.4.6):
#   whole numbers, 176 distinct rows: 19 of 19 other orders give other clusters
#     clusters: [6, 7, 10, 11, 12, 13, 14, 15, 16, 17]; rows in none: 39 to 148
#     the same order again: the same; algorithm=brute: others
#   normal numbers, 300 distinct rows: 19 of 19 other orders give other clusters
#     clusters: [12, 13, 14]; rows in none: 149 to 162
#     the same order again: the same; algorithm=brute: others
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import sklearn
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score

rng = np.random.default_rng(0)
TABLES = {"whole numbers": rng.integers(0, 4, size=(300, 4)).astype(float), "normal numbers": rng.normal(size=(300, 2))}


def clusters(rows, order, algorithm="kd_tree"):
    found = np.empty(len(rows), dtype=int)
    found[order] = HDBSCAN(min_cluster_size=5, algorithm=algorithm, copy=True).fit_predict(rows[order])
    return found


def alike(ours, theirs):
    return adjusted_rand_score(ours, theirs) == 1 and np.array_equal(ours == -1, theirs == -1)


print(f"scikit-learn {sklearn.__version__}, numpy {np.__version__}")
seen = []
for name, rows in TABLES.items():
    first = np.arange(len(rows))
    found = [clusters(rows, first)] + [clusters(rows, rng.permutation(len(rows))) for _ in range(19)]
    numbers = sorted({int(labels.max()) + 1 for labels in found})
    noise = [int((labels == -1).sum()) for labels in found]
    other = sum(not alike(found[0], labels) for labels in found[1:])
    brute = alike(found[0], clusters(rows, first, "brute"))
    again = alike(found[0], clusters(rows, first))
    print(f"{name}, {len(np.unique(rows, axis=0))} distinct rows: {other} of 19 other orders give other clusters")
    print(f"  clusters: {numbers}; rows in none: {min(noise)} to {max(noise)}")
    print(f"  the same order again: {'the same' if again else 'others'}; algorithm=brute: {'the same' if brute else 'others'}")
    seen += [other > 0, again, not brute]
raise SystemExit(0 if all(seen) else "changed: the clusters do not depend on the order or the algorithm now")
PY
