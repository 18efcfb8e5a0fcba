#!/usr/bin/env bash
# Finding: ART 1.20.1, SpectralSignatureDefense, finds nothing if all features are shifted, and removes rows if no poison is expected.
#
# Behaviour: the singular vector is that of the centred features, as in Algorithm 1 of Tran, Li, Madry (2018), but the scores are
#   projections of the uncentred features. Adding one vector to the features of all rows changes the verdict; that of the algorithm
#   does not change. Rows are kept if their score is below a quantile. So with expected_pp_poison=0 the top row of each class is
#   still removed, and if all rows of a class are equal, all of them are removed.
# Input: 400 rows of whole numbers in two classes; 20 rows of class 1 are shifted by 60 along one axis; then all rows are shifted back along it.
# Output seen (Python 3.11, numpy 2.4.6):
#   shift 0: 30 rows removed, 15 of 20 poisoned
#   shift 60: 30 rows removed, 0 of 20 poisoned
#   expected_pp_poison=0: 2 rows removed
#   equal rows: 400 of 400 removed
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
from art.defences.detector.poison import SpectralSignatureDefense


class Identity:
    """An estimator whose features are its inputs, with the attributes that the defence needs."""

    nb_classes, layer_names = 2, ["features"]

    def get_activations(self, x, layer, batch_size=128, framework=False):
        return x


def removed(features, expected):
    defence = SpectralSignatureDefense(Identity(), features, np.eye(2)[labels], expected_pp_poison=expected)
    return np.array(defence.detect_poison()[1]) == 0


rows = np.random.default_rng(0).integers(-9, 10, size=(400, 20)).astype(float)
labels = np.arange(400) % 2
poison = np.zeros(400, dtype=bool)
poison[np.flatnonzero(labels == 1)[:20]] = True
rows[poison, 0] += 60
axis = np.eye(20)[0]
found = {shift: removed(rows - shift * axis, 0.05) for shift in (0, 60)}
none_expected, equal = removed(rows, 0.0), removed(np.zeros((400, 20)), 0.05)
print(f"adversarial-robustness-toolbox {art.__version__}, numpy {np.__version__}")
for shift, gone in found.items():
    print(f"shift {shift}: {gone.sum()} rows removed, {gone[poison].sum()} of {poison.sum()} poisoned")
print(f"expected_pp_poison=0: {none_expected.sum()} rows removed")
print(f"equal rows: {equal.sum()} of {len(equal)} removed")
seen = [int(found[0][poison].sum()), int(found[60][poison].sum()), int(none_expected.sum()), int(equal.sum())]
raise SystemExit(0 if seen == [15, 0, 2, 400] else f"changed: {seen} and not [15, 0, 2, 400]")
PY
