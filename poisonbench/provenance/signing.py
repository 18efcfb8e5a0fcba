"""Sign the files of a folder with a private key, and check a folder against such a signature.

The signature is a file of the library model-signing: a sigstore bundle with the list of all files and their digests. Its own
command, `python -m model_signing`, reads ours, and we read its. Only keys on elliptic curves are used; nothing needs a network.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeVar

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import bounded, write_text
from poisonbench.provenance.folder import FOLDERS, Checked, Contents, State, contents, differences, listable, under
from poisonbench.provenance.keys import fingerprint, load_private, load_public

CHUNK = 2**18  # bytes that are read at once; they stay in the cache of the processor while they are hashed
HASHES = {"blake2b": "blake2"}  # model-signing 1.1.1 writes one name and accepts only the other, so its own check refuses such signatures
Read = TypeVar("Read")


class Manifest(Protocol):
    """The list of files that model-signing reads from a signature, once the signature is verified."""

    model_name: str
    serialization_type: Mapping[str, object]

    def resource_descriptors(self) -> Sequence[Descriptor]:
        """Return the name and the digest of each file."""
        ...


class Hashing(Protocol):
    """How model-signing hashes files."""

    def hash(self, model_path: Path, *, files_to_hash: Sequence[Path]) -> Manifest:
        """Return the digests of files."""
        ...


class Digest(Protocol):
    """A digest of model-signing."""

    algorithm: str
    digest_hex: str


class Descriptor(Protocol):
    """One file of a manifest."""

    identifier: str
    digest: Digest


class _Stopped(Exception):  # names what happened
    """The check ended before the files were compared.

    Args:
        sentence: the reason.
        state: what this means for the folder.
    """

    def __init__(self, sentence: str, state: State = "could not check") -> None:
        super().__init__(sentence)
        self.state: State = state


def beside(folder: Path) -> Path:
    """Return where the signature of a folder is by default: beside it, as FOLDER.sig."""
    whole = Path(os.path.abspath(folder))
    return whole.with_name(f"{whole.name}.sig")


def sign(folder: Path, key: Path, signature: Path, threads: int = 1) -> int:
    """Sign all files of a folder, write the signature, and return the number of files.

    Hidden files are signed too. The signature itself and the files of git (`NOT_COVERED`, directly in the folder) are not.

    Args:
        folder: its files are signed.
        key: the private key.
        signature: where the signature is written.
        threads: on which files are hashed.

    Raises:
        ConfigError: a key that cannot sign, or the extra is not installed.
        DataError: no folder, a folder without files or with links, or a name that cannot be written down.
    """
    library = _library("signing")
    found = _signable(folder, key, signature)
    load_private(key)
    config = library.signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(_hashing(library, folder, signature, threads))
    with tempfile.TemporaryDirectory() as place:  # a temporary file in the folder would count as one of its files
        path = Path(place) / "signature"
        try:
            config.sign(folder.resolve(), path)  # the library refuses a folder that is itself reached by a link
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} cannot be signed ({error}); nothing was written") from error
        text = path.read_text(encoding="utf-8")
    write_text(signature, text + "\n")
    return len(found)


def _signable(folder: Path, key: Path, signature: Path) -> tuple[str, ...]:
    """Return the names of the files to sign.

    Raises:
        DataError: a folder that must not be signed as it is.
        ConfigError: the private key lies in the folder, or the signature would replace another file.
    """
    names = listable(folder, apart=[signature])
    if key.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"key={key}: the private key lies in the folder that is signed; keep it elsewhere, and give it to nobody")
    if signature.is_dir():
        raise ConfigError(f"signature={signature} is no file but a folder; name a file")
    if signature.exists() and not _is_bundle(signature):
        raise ConfigError(f"signature={signature}: this file exists and is no signature; name another file")
    return names


def verify(folder: Path, key: Path, signature: Path, threads: int = 1) -> Checked:
    """Check the files of a folder against a signature.

    The library verifies the signature over the list of files, and hashes the files. The comparison of the two lists is ours, so that it
    can name renamed and swapped files.

    Args:
        folder: its files are checked.
        key: the public key.
        signature: of the folder.
        threads: on which files are hashed.

    Raises:
        ConfigError: a key that cannot check a signature, or the extra is not installed.
        DataError: no folder, or no signature.
    """
    library = _library("verifying")
    if signature.exists() and not signature.is_file():
        raise DataError(f"signature={signature} is no file; name the file of the signature")
    if not signature.is_file():
        raise DataError(f"{signature} does not exist; name the signature with signature=FILE")
    if key.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"key={key}: the public key lies in the folder that is checked, where whoever changes files can replace it; keep it elsewhere")
    load_public(key)
    here = contents(folder, apart=[signature])
    try:
        signed = _signed(library, key, signature, here.special)
        covered = [folder / name for name in here.files if not under(name, signed.ignored)]
        config = _read(
            lambda: library.hashing.Config().use_file_serialization(hashing_algorithm=signed.algorithm, chunk_size=CHUNK, max_workers=threads), signature.name
        )
        found = _digests(config.set_ignored_paths(paths=[], ignore_git_paths=False), folder, covered)
    except _Stopped as reason:
        return Checked(state=reason.state, sentence=str(reason))
    if not signed.digests:
        return Checked(state="could not check", sentence=f"{signature} lists no files; sign the folder again")
    if not signed.digests.keys() & found.keys() and not {*signed.digests.values()} & {*found.values()}:
        of = f"none of the {len(signed.digests)} signed files is in {folder}, by name or by content; the signed folder was named {signed.name}"
        return Checked(state="could not check", sentence=f"this looks like the signature of another folder: {of}")
    return _compared(folder, here, signed, found)


def _compared(folder: Path, here: Contents, signed: Signed, found: Mapping[str, str]) -> Checked:
    """Compare the files that a folder contains with a signature.

    A signature does not say whether a path that it leaves out was a file or a folder. `sign` leaves out the files of git and the signature, so a
    folder in such a place has files that nobody signed.
    """
    links = tuple(name for name in here.special if not under(name, signed.ignored))
    differ = differences({name: digest for name, digest in signed.digests.items() if name not in links}, found)
    left = tuple(name for name in (*here.files, *here.special) if under(name, signed.ignored))
    if not differ and not links and (unexpected := next((path for path in signed.ignored if path not in FOLDERS and (folder / path).is_dir()), None)):
        fault = f"{folder / unexpected} is a folder, but the signature leaves this path out, as it does with the file of a signature"
        advice = "its files may be new: move it out of the folder, and check again"
        return Checked(state="could not check", sentence=f"{fault}; {advice}", not_covered=left)
    if not differ and not links:
        return Checked(state="fine", sentence=f"all {len(found)} files are as they were when they were signed", not_covered=left)
    return Checked(state="altered", sentence="the folder differs from what was signed", differences=differ, links=links, not_covered=left)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What a verified signature says.

    Args:
        digests: of each file, by name.
        ignored: paths that it leaves out.
        algorithm: the hash function.
        name: of the folder when it was signed.
    """

    digests: Mapping[str, str]
    ignored: tuple[str, ...]
    algorithm: str
    name: str


def _signed(library: ModuleType, key: Path, signature: Path, links: Sequence[str]) -> Signed:
    """Return what a signature says, if the key fits it.

    Raises:
        _Stopped: a file that is no signature by a key, one of another key, one whose list cannot be used, or one that the key does not fit.
    """
    hint, mine = _hint(signature), fingerprint(load_public(key))
    if hint and hint != mine:
        raise _Stopped(f"signed by another key: the signature names the key {hint[:16]}..., {key} is {mine[:16]}...; no file was checked")
    bundle = _read(lambda: library.verifying.sigstore_pb.Signature.read(signature), f"{signature} is no signature that model-signing can read")
    from cryptography.exceptions import InvalidSignature

    try:
        manifest: Manifest = _read(lambda: library.verifying.ec_key.Verifier(key).verify(bundle), f"{signature} has no list of files that can be checked")
    except InvalidSignature as error:
        fault = f"{signature} does not fit {key}: its list of files was changed after it was signed, or another key signed it"
        raise _Stopped(fault, "altered") from error
    kind = manifest.serialization_type
    if kind.get("method") != "files":
        method = f"it lists digests of {kind.get('method')} of files, and poisonbench checks digests of whole files"
        raise _Stopped(f"{signature} cannot be checked: {method}; sign the folder again by files")
    if kind.get("allow_symlinks") is True and links:
        raise _Stopped(
            f"{signature} was made with links followed, which poisonbench does not do, and {links[0]} is a link; replace links by files and sign again"
        )
    ignored = kind.get("ignore_paths", ())
    assert isinstance(ignored, list | tuple)
    digests = {each.identifier: each.digest.digest_hex for each in manifest.resource_descriptors()}
    return Signed(
        digests=digests, ignored=tuple(map(str, ignored)), algorithm=HASHES.get(str(kind["hash_type"]), str(kind["hash_type"])), name=manifest.model_name
    )


def _read(read: Callable[[], Read], fault: str) -> Read:
    """Return what `read` returns; the library prints warnings about old signatures, which are dropped.

    Raises:
        _Stopped: with `fault`, if the library cannot read what it gets.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return read()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise _Stopped(f"{fault} ({type(error).__name__}: {str(error)[:200]})") from error


def _hint(signature: Path) -> str:
    """Return the fingerprint of the key that a signature names; empty in the older form, which has none.

    Raises:
        _Stopped: no signature, or one that was not made with a key.
    """
    whole = _read(lambda: json.loads(bounded(signature.read_text(encoding="utf-8"))), f"{signature} is no signature that model-signing can read")
    material = whole.get("verificationMaterial") if isinstance(whole, dict) else None
    if not isinstance(material, dict) or "dsseEnvelope" not in whole:
        raise _Stopped(f"{signature} is no signature that model-signing can read (it has no verificationMaterial or no dsseEnvelope)")
    if not isinstance(material.get("publicKey"), dict):
        raise _Stopped(f"{signature} was not made with a key but with a certificate, as keyless signatures are; check it with `python -m model_signing`")
    return str(material["publicKey"].get("hint") or "")


def _digests(config: Hashing, folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return the digest of each file, by its name in the folder.

    Raises:
        _Stopped: a file that cannot be read.
    """
    if not files:
        return {}
    manifest = _read(lambda: config.hash(folder, files_to_hash=files), f"the files of {folder} cannot be hashed")
    return {each.identifier: each.digest.digest_hex for each in manifest.resource_descriptors()}


def _hashing(library: ModuleType, folder: Path, signature: Path, threads: int) -> object:
    """Return how the library hashes a folder: each file by SHA-256, in pieces."""
    whole = signature.resolve()
    inside = [whole.relative_to(folder.resolve())] if whole.is_relative_to(folder.resolve()) else []
    config = library.hashing.Config().use_file_serialization(hashing_algorithm="sha256", chunk_size=CHUNK, max_workers=threads)
    return config.set_ignored_paths(paths=inside, ignore_git_paths=True)


def _is_bundle(path: Path) -> bool:
    """Return whether a file is a signature, so that a new one may replace it."""
    try:
        whole = json.loads(bounded(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
    return isinstance(whole, dict) and "sigstore.bundle" in str(whole.get("mediaType"))


def _library(*parts: str) -> ModuleType:
    """Import model-signing.

    Raises:
        ConfigError: it is not installed; names the extra.
    """
    try:
        for part in ("hashing", *parts):
            importlib.import_module(f"model_signing.{part}")
        return importlib.import_module("model_signing")
    except ImportError as error:
        raise ConfigError(f'signatures need the package model-signing ({error}): pip install "poisonbench[provenance]"') from error
