#!/usr/bin/env bash
# Finding: model-signing 1.1.1 signs a folder with blake2, and cannot verify this signature: ValueError.
#
# Behaviour: "blake2" is an accepted value of hashing_algorithm. The signature names the algorithm "blake2b", the name that the hasher gives itself.
#   The verifier reads this name and accepts "sha256", "blake2" and "blake3" only, so it refuses every signature made with blake2.
# Input: a folder with one file of one byte, and a new key on P-256.
# Output seen (Python 3.11, protobuf 7.36.2):
#   sha256: signed, verified
#   blake2: signed, ValueError: Unsupported hashing method blake2b
#   blake3: signed, verified
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  model-signing==1.1.1 sigstore==4.5.1 protobuf==7.36.2 cryptography==50.0.2 pyopenssl==26.4.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

PEM = serialization.Encoding.PEM
key = ec.generate_private_key(ec.SECP256R1())
Path("private.pem").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
Path("public.pem").write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
model = Path("model")
model.mkdir()
(model / "weights").write_bytes(b"1")


def outcome(algorithm):
    signature = Path(f"{algorithm}.sig")
    how = hashing.Config().use_file_serialization(hashing_algorithm=algorithm)
    signing.Config().set_hashing_config(how).use_elliptic_key_signer(private_key=Path("private.pem")).sign(model, signature)
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=Path("public.pem")).verify(model, signature)
    except ValueError as error:
        return f"ValueError: {error}"
    return "verified"


print(f"model-signing {version('model-signing')}")
seen = {algorithm: outcome(algorithm) for algorithm in ("sha256", "blake2", "blake3")}
for algorithm, told in seen.items():
    print(f"{algorithm}: signed, {told}")
same = seen["sha256"] == seen["blake3"] == "verified" and seen["blake2"] == "ValueError: Unsupported hashing method blake2b"
raise SystemExit(0 if same else "changed: signatures with blake2 are verified now, or fail in another way")
PY
