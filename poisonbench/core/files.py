"""Atomic writes, digests of files, and a file as a plugin's value. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from poisonbench.core.errors import CannotWrite, DataError

DEPTH, DIGITS = 100, 300  # limits of JSON: nested brackets, digits of a number
STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
LONG = re.compile(rf"\d{{{DIGITS + 1}}}")
STEP = {**dict.fromkeys(b"[{", 1), **dict.fromkeys(b"]}", -1)}
NINES = bytes.maketrans(b"0123456789", b"9" * 10)
NO_BRACKET = bytes(set(range(256)) - set(STEP))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then rename it into place.

    A reader sees the old file or the new one, never a part; a crash leaves at most a hidden temporary file.

    Raises:
        CannotWrite: the disk is full, or the folder must not be written.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary(path)
        os.close(handle)
        try:
            write(temporary)
            with temporary.open("rb") as stream:
                _to_disk(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files of one folder, each atomically; once all are on the disk, rename them in the order given.

    The folder is flushed once, instead of once for each file.

    Raises:
        CannotWrite: the disk is full, or the folder must not be written.
    """
    folder = next(iter(contents)).parent
    assert all(path.parent == folder for path in contents), "one flush is for one folder"
    temporaries: dict[Path, Path] = {}
    with _explained(next(iter(contents))):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for path, content in contents.items():
                handle, temporaries[path] = _temporary(path)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    _to_disk(handle)
            for path, temporary in temporaries.items():
                temporary.replace(path)
        except BaseException:
            for temporary in temporaries.values():
                temporary.unlink(missing_ok=True)
            raise
        _flush_folder(folder)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into `CannotWrite`."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written ({error.strerror or error}); free some space, or name another folder") from error


def _temporary(path: Path) -> tuple[int, Path]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    return handle, Path(name)


def _to_disk(handle: int) -> None:
    os.fchmod(handle, 0o644)  # mkstemp makes a file that only its owner may read
    os.fsync(handle)


def _flush_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_together({path: text.encode()})


def bounded(text: str) -> str:
    """Return JSON `text` that is within our limits, so that it stays below those of any parser.

    Raises:
        ValueError: more than DEPTH nested brackets, or a number of more than DIGITS digits.
    """
    outside = STRING.sub('"', text) if "\\" in text else '"'.join(text.split('"')[::2])  # strings do not count
    brackets = outside.encode(errors="replace").translate(None, delete=NO_BRACKET)
    deepest = max(itertools.accumulate(map(STEP.__getitem__, brackets), initial=0))
    long = outside.encode().translate(NINES).find(b"9" * (DIGITS + 1)) >= 0 if outside.isascii() else LONG.search(outside)
    if deepest > DEPTH or long:
        raise ValueError(f"too deep, or a number too long; at most {DEPTH} nested brackets and {DIGITS} digits are allowed")
    return text


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(path: Path, seconds: float) -> None:
    """Write the SHA-256 of a file's bytes and the seconds that computing it took into a file beside it."""
    write_text(path.with_suffix(".sha256"), _seal(file_digest(path), seconds))


def write_sealed(path: Path, content: bytes, seconds: float) -> None:
    """Write `content`, then what `seal` writes beside it, with one flush of the folder."""
    write_together({path: content, path.with_suffix(".sha256"): _seal(hashlib.sha256(content).hexdigest(), seconds).encode()})


def _seal(digest: str, seconds: float) -> str:
    return f"{digest} {seconds:.6f}\n"


def sealed(path: Path) -> tuple[str, float]:
    """Return what `seal` wrote beside `path`: the SHA-256 and the seconds.

    Raises:
        ValueError: a wrong form.
    """
    digest, _, words = path.with_suffix(".sha256").read_bytes().decode().strip().partition(" ")
    seconds = float(words)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"it took {words} seconds")
    return digest, seconds


@dataclass(frozen=True)
class File:
    """A file named in a plugin's field: its key depends on its content, not on its path."""

    path: str

    def __post_init__(self) -> None:
        """Refuse a missing file before anything is computed."""
        if not Path(self.path).expanduser().is_file():
            raise DataError(f"no file at {self.path}; give the path of an existing file")

    @cached_property
    def content(self) -> str:
        """The part of a key that this file contributes."""
        return file_digest(Path(self.path).expanduser())
