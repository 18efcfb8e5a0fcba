#!/usr/bin/env bash
# Finding: imagehash 4.3.2, phash_simple, reads only the upper part of a picture: whatever is below does not change the hash.
#
# Behaviour: the cosine transform of phash_simple goes along the rows alone, and the first 8 of the 32 rows of the result are kept. These are the upper
#   quarter of the picture, not its low frequencies. So two pictures with the same upper part have the same hash, and a search for copies takes
#   different pictures for copies. phash transforms both directions and reads the whole picture. That phash_simple has one transform and phash
#   two is known (issue 70 of JohannesBuchner/imagehash, closed). Larger pictures are first reduced to 32x32.
# Input: the 1,797 digits of scikit-learn, enlarged to 32x32; the lower 24 of their 32 rows are replaced with white.
# Output seen (Python 3.11, numpy 2.4.6, Pillow 13.0.0):
#   phash_simple: 1797 of 1797 hashes stay the same with the lower 24 rows white; 412 digits have the hash of another digit
#   phash: 0 of 1797 hashes stay the same with the lower 24 rows white; 0 digits have the hash of another digit
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check imagehash==4.3.2 numpy==2.4.6 scipy==1.17.1 pillow==13.0.0 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - <<'PY'
import imagehash
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

DIGITS = load_digits()
SMALL = (DIGITS.images * 255 / 16).astype(np.uint8)
PICTURES = np.stack([np.asarray(Image.fromarray(picture).resize((32, 32))) for picture in SMALL])
COVERED = PICTURES.copy()
COVERED[:, 8:] = 255


def hashes(function, pictures):
    return np.stack([function(Image.fromarray(picture)).hash.ravel() for picture in pictures])


def shared(hashed):
    """Return how many pictures have the hash of a picture of another digit."""
    _, group = np.unique(hashed, axis=0, return_inverse=True)
    several = [number for number in range(group.max() + 1) if len(set(DIGITS.target[group == number])) > 1]
    return int(np.isin(group, several).sum())


print(f"imagehash {imagehash.__version__}")
seen = {}
for function in (imagehash.phash_simple, imagehash.phash):
    hashed = hashes(function, PICTURES)
    equal = int((hashed == hashes(function, COVERED)).all(1).sum())
    seen[function.__name__] = equal, shared(hashed)
    told = f"{equal} of {len(PICTURES)} hashes stay the same with the lower 24 rows white"
    print(f"{function.__name__}: {told}; {shared(hashed)} digits have the hash of another digit")
same = seen == {"phash_simple": (1797, 412), "phash": (0, 0)}
raise SystemExit(0 if same else "changed: phash_simple reads the whole picture now, or phash does not")
PY
