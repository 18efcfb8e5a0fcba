"""Read shards of a web data set: tar files whose members are the pictures, texts and metadata of rows. Memory does not grow with their size.

The members of a row have one name up to the first dot, its key: 000000123.jpg, 000000123.txt. Headers are read here, all those of a window at once,
because for small members Python's tarfile needs longer for a header than SHA-256 for the content (`python -m benchmarks index_hashes`).

Source: the format "ustar" of POSIX.1-1988, in which Python's tarfile, GNU tar and webdataset write.
Shape letters: H headers, W bytes of a field.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from poisonbench.core.errors import DataError

Algorithm: TypeAlias = Literal["md5", "sha256", "sha512"]
Bytes: TypeAlias = NDArray[np.uint8]
Numbers: TypeAlias = NDArray[np.int64]
BLOCK = 512  # bytes; headers and contents start at its multiples
WINDOW = 2**21  # bytes that are in memory at a time, unless one member is larger
LARGEST = 2**62  # a size above is no size
NAME, SIZE, CHECKSUM, KIND, PREFIX = slice(100), slice(124, 136), slice(148, 156), 156, 345  # places of the fields of a header
SPACES = 8 * ord(" ")  # the checksum is that of a header with spaces in the place of the checksum
MAGIC = slice(256, 264)  # one byte before "ustar", so that the eight bytes can be compared as one number
USTAR, MASK = np.frombuffer(b"\0ustar\0\0" + b"\0\xff\xff\xff\xff\xff\0\0", np.uint64)
OTHER, PLAIN, FURTHER, UNREAD = range(4)  # folders and links; files; further headers; names or contents in a form that is not read
ROLES = np.zeros(256, np.uint8)
for _kinds, _role in ((b"0\0", PLAIN), (b"xg", FURTHER), (b"LKS", UNREAD)):
    ROLES[[*_kinds]] = _role


class Member(NamedTuple):
    """A file in a tar file.

    Args:
        key: its name up to the first dot.
        suffix: its name after the first dot, in lower case.
        start: where its content begins, in bytes of the tar file.
        size: bytes of its content.
    """

    key: str
    suffix: str
    start: int
    size: int


class _Headers(NamedTuple):
    """The headers of members that are whole, in a window of a tar file.

    Args:
        blocks: (H, 512) bytes.
        starts: (H,) where the contents begin, in bytes of the window.
        sizes: (H,) bytes of the contents.
    """

    blocks: Bytes
    starts: Numbers
    sizes: Numbers


class _Window(NamedTuple):
    """The plain files among whole members that are in memory.

    Args:
        base: place of the first byte in the tar file.
        view: the bytes.
        names: key, dot and suffix of each file.
        starts: where their contents begin in `view`.
        sizes: of their contents.
    """

    base: int
    view: memoryview
    names: list[tuple[str, str, str]]
    starts: list[int]
    sizes: list[int]


def members(path: Path) -> Iterator[Member]:
    """Yield the plain files of a tar file in their order, with the place of each.

    Raises:
        DataError: a tar file that is cut off or damaged, or whose names are in a form that is not read.
    """
    for base, _, names, starts, sizes in _windows(path):
        for (key, _, suffix), start, size in zip(names, starts, sizes, strict=True):
            yield Member(key, suffix.lower(), base + start, size)


def write_without(path: Path, keys: Collection[str], place: Path) -> None:
    """Write a tar file without the members that have one of the keys; the contents of all others stay as they are.

    Raises:
        DataError: as for `members`.
    """
    dropped = {member.start for member in members(path) if member.key in keys}
    with tarfile.open(path) as old, tarfile.open(place, "w") as new:
        for member in old:
            if member.offset_data not in dropped:
                new.addfile(member, old.extractfile(member) if member.isreg() else None)


def digests(path: Path, suffixes: Collection[str], algorithm: Algorithm = "sha256") -> Iterator[tuple[str, bytes]]:
    """Yield the key and the digest of each plain file of a tar file that has one of the suffixes, such as "jpg".

    Raises:
        DataError: as for `members`.
    """
    digest: Callable[[memoryview], Any] = getattr(hashlib, algorithm)
    for _, view, names, starts, sizes in _windows(path):
        for (key, _, suffix), start, size in zip(names, starts, sizes, strict=True):
            if suffix in suffixes or suffix.lower() in suffixes:
                yield key, digest(view[start : start + size]).digest()


def _windows(path: Path) -> Iterator[_Window]:
    """Yield windows one after the other; the bytes of a window are overwritten when the next one is asked for.

    Raises:
        DataError: as for `members`.
    """
    whole, base, filled = path.stat().st_size, 0, 0
    buffer = np.empty(WINDOW, np.uint8)
    with path.open("rb", buffering=0) as stream:
        while True:
            view = memoryview(buffer)  # type: ignore[arg-type]  # numpy states the buffer protocol from Python 3.12 on
            while filled < len(buffer) and (count := stream.readinto(view[filled:])):
                filled += count
            blocks = buffer[: filled - filled % BLOCK].reshape(-1, BLOCK)
            headers, at = _chain(blocks)
            here = f"{path}, byte {base + at * BLOCK}"
            yield _Window(base, view, *_files(path, headers, view))
            rest = blocks[at:]
            if len(rest) and not rest[0].any():
                return _check_end(path, rest, stream.read)
            size = int(_sizes(rest[:1])[0]) if len(rest) else 0
            if size < 0:
                raise DataError(f"{here}: no header of a tar file in the format ustar; fetch the file again, or write it uncompressed")
            need = BLOCK + size + -size % BLOCK
            if filled < len(buffer) or base + at * BLOCK + need > whole:  # nothing is left to read, or less than the header states
                raise DataError(f"{here}: the tar file is cut off, the rest is missing; fetch it again")
            left = buffer[at * BLOCK : filled].copy()
            if need > len(buffer):
                buffer = np.empty(need, np.uint8)
            buffer[: len(left)] = left
            base, filled = base + at * BLOCK, len(left)


def _chain(blocks: Bytes) -> tuple[_Headers, int]:
    """Return the headers of members that are whole, and the number of the block behind the last of them."""
    places = np.flatnonzero((blocks[:, MAGIC].view(np.uint64)[:, 0] & MASK) == USTAR)  # headers, and contents that look like one
    alike = blocks[places]
    sizes = _octal(alike[:, SIZE])
    behind = np.where(sizes < 0, LARGEST, places + 1 + (sizes + BLOCK - 1) // BLOCK)
    whole = behind <= len(blocks)
    if len(places) and (places[0] or (places[1:] != behind[:-1]).any()):
        whole = _reached(places, behind, len(blocks))
    if not whole.all():
        places, alike, sizes, behind = places[whole], alike[whole], sizes[whole], behind[whole]
    return _Headers(alike, (places + 1) * BLOCK, sizes), int(behind[-1]) if len(places) else 0


def _reached(places: Numbers, behind: Numbers, count: int) -> NDArray[np.bool_]:
    """Return (H,) bool, the blocks that follow each other from the first one on: contents can look like headers."""
    following, reached, at = dict(zip(places.tolist(), behind.tolist(), strict=True)), set[int](), 0
    while (after := following.get(at, LARGEST)) <= count:
        reached.add(at)
        at = after
    return np.isin(places, [*reached])


def _files(path: Path, headers: _Headers, view: memoryview) -> tuple[list[tuple[str, str, str]], list[int], list[int]]:
    """Return names, starts and sizes of the plain files among members that are whole.

    Raises:
        DataError: a header whose checksum is wrong, or a name in a form that is not read.
    """
    blocks, starts, sizes = headers
    sums = blocks.sum(1, dtype=np.uint32).astype(np.int64) - blocks[:, CHECKSUM].sum(1, dtype=np.uint32) + SPACES
    if (sums != _octal(blocks[:, CHECKSUM][:, :-1])).any():
        raise DataError(f"{path} has a header whose checksum is wrong, so the file is damaged; fetch it again")
    roles = ROLES[blocks[:, KIND]]
    further = roles == FURTHER
    spans = zip(starts[further].tolist(), sizes[further].tolist(), strict=True) if further.any() else ()
    told = b"".join([view[start : start + size] for start, size in spans])
    if (roles == UNREAD).any() or blocks[:, PREFIX].any() or b" path=" in told or b" size=" in told:
        raise DataError(f"{path} has long names, names with other letters than ASCII, or sparse files, which are not read; write keys as img2dataset does")
    if not (plain := roles == PLAIN).all():
        blocks, starts, sizes = blocks[plain], starts[plain], sizes[plain]
    found = np.ascontiguousarray(blocks[:, NAME])
    names = b"\0".join(found.view("S100")[:, 0].tolist()).decode(errors="replace").split("\0") if len(found) else []
    if len(names) != len(found):
        raise DataError(f"{path} has a name with a zero byte, so the file is damaged; fetch it again")
    parts = [_parted(name) for name in names] if (found == ord("/")).any() else [name.partition(".") for name in names]
    return parts, starts.tolist(), sizes.tolist()


def _parted(name: str) -> tuple[str, str, str]:
    """Return a name up to the first dot behind its folder, the dot, and what follows."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", dot, suffix


def _sizes(blocks: Bytes) -> Numbers:
    """Return (H,) sizes of the contents; -1 for a block that is no header."""
    return np.where((blocks[:, MAGIC].view(np.uint64)[:, 0] & MASK) == USTAR, _octal(blocks[:, SIZE]), -1)


def _octal(fields_HW: Bytes) -> Numbers:
    """Return (H,) numbers of fields: octal digits and a final space or zero as most write them, else as `_number` reads them."""
    digits = fields_HW[:, :-1] - np.uint8(ord("0"))
    found: Numbers = digits @ 8 ** np.arange(digits.shape[1] - 1, -1, -1)
    odd = (digits > 7).any(1) | (fields_HW[:, -1] & ~np.uint8(ord(" ")) != 0)
    for row in np.flatnonzero(odd).tolist():
        found[row] = _number(fields_HW[row].tobytes())
    return found


def _number(field: bytes) -> int:
    """Return the number of a field, which is octal, or binary if its first bit is set; -1 for no number."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        return value if value < LARGEST else -1
    text = field.partition(b"\0")[0].strip()
    return int(text, 8) if text and not text.strip(b"01234567") else -1


def _check_end(path: Path, rest: Bytes, read: Callable[[int], bytes | None]) -> None:
    """Check that nothing but zeros follows the end of the archive.

    Raises:
        DataError: further bytes, which other readers would leave out without a word.
    """
    content: Bytes = rest.reshape(-1)
    while len(content):
        if content.any():
            raise DataError(f"{path} goes on after its end; write each shard into its own file")
        content = np.frombuffer(read(WINDOW) or b"", np.uint8)
