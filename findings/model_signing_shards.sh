#!/usr/bin/env bash
# Finding: model-signing 1.1.1 signs a folder by shards, and cannot verify this signature: TypeError.
#
# Behaviour: use_shard_serialization is one of the two ways to hash that the library offers. The size of a shard is written into a protobuf Struct, whose
#   numbers are all floats. verify guesses how to hash from the signature, reads the size as a float and calls range with it.
# Input: a folder with one file of one byte, a new key on P-256, the default shard size.
# Output seen (Python 3.11, protobuf 7.36.2):
#   by files: signed, verified
#   by shards: signed, TypeError: 'float' object cannot be interpreted as an integer
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


def outcome(kind, how):
    signature = Path(f"{kind}.sig")
    signing.Config().set_hashing_config(how).use_elliptic_key_signer(private_key=Path("private.pem")).sign(model, signature)
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=Path("public.pem")).verify(model, signature)
    except TypeError as error:
        return f"TypeError: {error}"
    return "verified"


print(f"model-signing {version('model-signing')}")
seen = {}
for kind, how in (("files", hashing.Config().use_file_serialization()), ("shards", hashing.Config().use_shard_serialization())):
    seen[kind] = outcome(kind, how)
    print(f"by {kind}: signed, {seen[kind]}")
same = seen["files"] == "verified" and seen["shards"].startswith("TypeError: 'float' object")
raise SystemExit(0 if same else "changed: signatures by shards are verified now, or fail in another way")
PY
