"""Where the pictures of a web index are: in a tar file, in a folder, or in a column of the index. Each picture has a key."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

from poisonbench.core.errors import DataError
from poisonbench.core.files import file_digest
from poisonbench.core.shards import Algorithm, Member, digests, members, write_without
from poisonbench.tasks.listing import SUFFIXES
from poisonbench.tasks.parquet import Columns, cells
from poisonbench.tasks.pictures import is_hidden
from poisonbench.tasks.writing import Copy

PICTURES = frozenset(suffix[1:] for suffix in SUFFIXES)


class Holder(Protocol):
    """Where the pictures of an index are; with STRICT, a row whose download succeeded must have its picture there."""

    STRICT: ClassVar[bool]

    @property
    def path(self) -> Path:
        """The file or the folder."""
        ...

    @property
    def keys(self) -> Collection[str]:
        """The keys of all pictures."""
        ...

    @property
    def content(self) -> object:
        """What the pictures contribute to a key of the store."""
        ...

    def read(self, key: str) -> bytes:
        """Return the bytes of a picture."""
        ...

    def digests(self, algorithm: Algorithm) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the digest of each picture."""
        ...

    def write(self, dropped: Collection[str], copy: Copy) -> list[Path]:
        """Write the files without the pictures that have these keys, and without the texts and metadata of their rows; return the files."""
        ...


@dataclass(frozen=True)
class Tar:
    """Pictures in a tar file, as KEY.jpg; it is read without unpacking it."""

    STRICT: ClassVar[bool] = True
    path: Path

    @cached_property
    def keys(self) -> Mapping[str, Member]:
        """The place of each picture, by its key.

        Raises:
            DataError: a damaged tar file, or two pictures with one key.
        """
        found = dict[str, Member]()
        for member in members(self.path):
            if member.suffix in PICTURES and found.setdefault(member.key, member) is not member:
                raise DataError(f"{self.path} has two pictures with the key {member.key}; remove one of them")
        return found

    @property
    def content(self) -> str:
        """The digest of the file."""
        return file_digest(self.path)

    def read(self, key: str) -> bytes:
        """Return the bytes of a picture."""
        member = self.keys[key]
        with self.path.open("rb") as stream:
            stream.seek(member.start)
            return stream.read(member.size)

    def digests(self, algorithm: Algorithm) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the digest of each picture."""
        return digests(self.path, PICTURES, algorithm)

    def write(self, dropped: Collection[str], copy: Copy) -> list[Path]:
        """Write the tar file; without a dropped key, it is copied."""
        if dropped:
            write_without(self.path, dropped, copy.place(self.path))
        else:
            copy.copy(self.path)
        return [self.path]


@dataclass(frozen=True)
class Folder:
    """Pictures in a folder, without the folders below it.

    Args:
        path: the folder.
        by_name: the key of a picture is the whole name of its file; otherwise the name up to the first dot.
    """

    STRICT: ClassVar[bool] = True
    path: Path
    by_name: bool = False

    @cached_property
    def keys(self) -> Mapping[str, Path]:
        """The path of each picture, by its key.

        Raises:
            DataError: two pictures with one key.
        """
        found = dict[str, Path]()
        for path in sorted(path for path in self.path.iterdir() if path.is_file() and not is_hidden(Path(path.name))):
            stem, _, suffix = path.name.partition(".")
            key = path.name if self.by_name else stem
            if (self.by_name or suffix.lower() in PICTURES) and found.setdefault(key, path) is not path:
                raise DataError(f"{self.path} has two pictures with the key {key}, {found[key].name} and {path.name}; remove one of them")
        return found

    @property
    def content(self) -> list[tuple[str, str]]:
        """The digest of each file."""
        return [(key, file_digest(path)) for key, path in self.keys.items()]

    def read(self, key: str) -> bytes:
        """Return the bytes of a picture."""
        return self.keys[key].read_bytes()

    def digests(self, algorithm: Algorithm) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the digest of each picture."""
        for key, path in self.keys.items():
            with path.open("rb") as stream:
                yield key, hashlib.file_digest(stream, algorithm).digest()

    def write(self, dropped: Collection[str], copy: Copy) -> list[Path]:
        """Copy the files of the other rows."""
        files = sorted(path for path in self.path.iterdir() if path.is_file() and not is_hidden(Path(path.name)))
        for path in files:
            if (path.name if self.by_name else path.name.partition(".")[0]) not in dropped:
                copy.copy(path)
        return files


@dataclass(frozen=True)
class Cells:
    """Pictures in a column of the index; a row without bytes has no picture.

    Args:
        path: the index.
        image: the column of the bytes.
        key: the column of the keys.
    """

    STRICT: ClassVar[bool] = False
    path: Path
    image: str
    key: str

    @cached_property
    def keys(self) -> Mapping[str, bytes]:
        """The bytes of each picture, by its key."""
        return {key: content for content, _, key in cells(self.path, Columns(self.image, None, self.key, ())) if content is not None}

    @property
    def content(self) -> str:
        """Nothing: the digest of the index covers the pictures."""
        return ""

    def read(self, key: str) -> bytes:
        """Return the bytes of a picture."""
        return self.keys[key]

    def digests(self, algorithm: Algorithm) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the digest of each picture."""
        for key, content in self.keys.items():
            yield key, hashlib.new(algorithm, content).digest()

    def write(self, dropped: Collection[str], copy: Copy) -> list[Path]:
        """Write nothing: the rows of the index have the pictures."""
        return []
