"""Keys and folders for tests."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

KINDS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def pair(folder: Path, name: str, kind: str = "P-256", password: str | None = None) -> tuple[Path, Path]:
    """Write a new pair of keys, and return the paths of the private and the public one."""
    key, folder = KINDS[kind](), folder / "keys"
    folder.mkdir(exist_ok=True)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def data(folder: Path, name: str = "data") -> Path:
    """Write a folder of five files, one of them hidden, one in a folder below."""
    root = folder / name
    (root / "cats").mkdir(parents=True)
    for place, content in {"a.txt": "one", "b.txt": "two", "c.txt": "three", "cats/d.txt": "four", ".hidden": "five"}.items():
        (root / place).write_text(f"{content}\n")
    return root
