#!/usr/bin/env bash
# Finding: ART 1.20.1, ActivationDefence with cluster_analysis="relative-size", raises an error if a class has no small cluster.
#
# Behaviour: with numpy 2.2 or later, which its requirements allow, detect_poison raises ValueError if both clusters of a class
#   contain 35 % of it or more, which is usual for clean data. The analyzer looks for a number in a tuple that contains one array,
#   and an empty array no longer has a truth value. Earlier versions of numpy used False and printed a warning.
# Input: 400 rows of whole numbers in two classes, each of them two clusters of 100 rows; no poison.
# Output seen (Python 3.11, numpy 2.4.6, scikit-learn 1.9.1):
#   sizes of the clusters: [100, 100] and [100, 100]
#   ValueError: The truth value of an empty array is ambiguous. Use `array.size > 0` to check that an array is not empty.
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
rows[:200, 0] += 60
defence = ActivationDefence(Identity(), rows, np.eye(2)[labels])
clusters, _ = defence.cluster_activations(nb_clusters=2, nb_dims=10, reduce="PCA")
print(f"adversarial-robustness-toolbox {art.__version__}, numpy {np.__version__}")
print("sizes of the clusters:", " and ".join(str(np.bincount(own).tolist()) for own in clusters))
try:
    defence.detect_poison(cluster_analysis="relative-size")
except ValueError as error:
    print(f"ValueError: {error}")
    raise SystemExit(0 if "empty array" in str(error) else "changed: another error") from None
raise SystemExit("changed: there is a verdict now")
PY
