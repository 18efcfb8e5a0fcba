"""Keys on elliptic curves, in PEM files, as openssl writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from poisonbench.core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}  # those of model-signing
MAKE_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem"
MAKE_PUBLIC = "openssl ec -in private.pem -pubout -out public.pem"
Pem = TypeVar("Pem")


def load_private(path: Path) -> PrivateKeyTypes:
    """Return a private key.

    Raises:
        ConfigError: no private key on an elliptic curve that signs here, in one sentence.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _pem(path, MAKE_KEY)
    if b"ENCRYPTED" in content:
        raise ConfigError(f"key={path}: this private key has a password; remove it for the time of signing with `openssl ec -in {path} -out plain.pem`")
    if b"PUBLIC KEY" in content:
        raise ConfigError(f"key={path}: this is a public key; sign with the private one, and check with the public one")
    return _on_a_curve(path, lambda: load_pem_private_key(content, None), MAKE_KEY)


def load_public(path: Path) -> PublicKeyTypes:
    """Return a public key.

    Raises:
        ConfigError: no public key on an elliptic curve that can check a signature here, in one sentence.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _pem(path, MAKE_PUBLIC)
    if b"PRIVATE KEY" in content:
        raise ConfigError(f"key={path}: this is a private key; check with the public one: openssl ec -in {path} -pubout -out public.pem")
    return _on_a_curve(path, lambda: load_pem_public_key(content), MAKE_PUBLIC)


def _pem(path: Path, how: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"key={path}: this key cannot be read ({error.strerror}); make one with: {how}") from error


def _on_a_curve(path: Path, load: Callable[[], Pem], how: str) -> Pem:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = load()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"key={path}: this is no key in PEM form; make one with: {how}") from error
    curve = getattr(key, "curve", None)
    if curve is None or curve.name not in CURVES:
        kind = f"a key on the curve {curve.name}" if curve is not None else f"a key of the kind {type(key).__name__.lstrip('_')}"
        raise ConfigError(f"key={path}: this is {kind}; only the curves {', '.join(CURVES.values())} are used here; make a key with: {MAKE_KEY}")
    return key


def fingerprint(public: PublicKeyTypes) -> str:
    """Return the SHA-256 of a public key in PEM form, by which a signature names its key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
