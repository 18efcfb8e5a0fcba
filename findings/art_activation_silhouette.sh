#!/usr/bin/env bash
# Finding: ART 1.20.1, ActivationDefence with cluster_analysis="silhouette-scores", removes the whole class in which it finds poison.
#
# Behaviour: in a class whose smaller cluster is suspicious, the report names only that cluster (10 % of the class here), but the
#   rows of both clusters are returned as poison, and poisonous_clusters marks neither. The analyzer also lists the suspicious
#   cluster as the clean one, so the entries of the other cluster's rows are never set. They contain the uninitialised memory of a
#   new array, and count as poison unless it is exactly 1. An entry other than 0 and 1 was reported in 2019 (issue 186, closed).
# Input: 400 rows of whole numbers in two classes; 20 rows of class 1 are shifted by 60 along one axis.
# Output seen (Python 3.11, numpy 2.4.6, scikit-learn 1.9.1):
#   report: class 1 suspicious=True, sizes of its clusters 20 and 180
#   poisonous_clusters of class 1: [0.0, 0.0]
#   marked as poison in class 1: 200 of 200 rows, 20 of them poisoned
# Also seen: importing ART 1.20.1 needs `packaging`, which it does not list as a requirement.
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  adversarial-robustness-toolbox==1.20.1 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 packaging==26.4
"$folder/venv/bin/python" -W ignore - <<'PY'
import art
import numpy as np
from art.defences.detector.poison import ActivationDefence


class Identity:
    """An estimator whose features are its inputs, with the attributes that the defence needs."""

    nb_classes, layer_names = 2, ["features"]

    def get_activations(self, x, layer, batch_size=128, framework=False):
        return x


rows = np.random.default_rng(0).integers(-9, 10, size=(400, 20)).astype(float)
labels = np.arange(400) % 2
poison = np.zeros(400, dtype=bool)
poison[np.flatnonzero(labels == 1)[:20]] = True
rows[poison, 0] += 60
defence = ActivationDefence(Identity(), rows, np.eye(2)[labels])
report, is_clean = defence.detect_poison(nb_clusters=2, nb_dims=10, reduce="PCA", cluster_analysis="silhouette-scores")
summary, clusters = report["class_1"], sorted(np.bincount(defence.clusters_by_class[1]).tolist())
marked = np.array(is_clean)[labels == 1] == 0
print(f"adversarial-robustness-toolbox {art.__version__}, numpy {np.__version__}")
print(f"report: class 1 suspicious={summary['suspicious']}, sizes of its clusters {clusters[0]} and {clusters[1]}")
print(f"poisonous_clusters of class 1: {defence.poisonous_clusters[1].tolist()}")
print(f"marked as poison in class 1: {marked.sum()} of {len(marked)} rows, {int(poison.sum())} of them poisoned")
same = summary["suspicious"] and clusters == [20, 180] and not defence.poisonous_clusters[1].any() and marked.sum() > 20
raise SystemExit(0 if same else "changed: the verdict agrees with the report now, or the input is clustered differently")
PY
