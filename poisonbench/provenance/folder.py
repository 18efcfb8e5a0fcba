"""The files of a folder, and how they differ from a list of digests. Imports nothing heavy."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from poisonbench.core.errors import DataError

NOT_COVERED = (".git", ".gitattributes", ".github", ".gitignore")  # model-signing leaves them out; its own check would call them missing
FOLDERS = (".git", ".github")  # those of NOT_COVERED that are folders
State = Literal["fine", "altered", "could not check"]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder contains, by names relative to it, with forward slashes.

    Args:
        files: regular files, in alphabetical order.
        special: symbolic links, and whatever else is neither a file nor a folder.
    """

    files: tuple[str, ...]
    special: tuple[str, ...]


def contents(folder: Path, *, apart: Collection[Path] = ()) -> Contents:
    """Return what a folder contains, hidden files too. Links are listed and not followed.

    Args:
        folder: any folder.
        apart: files that do not count, such as the signature of the folder.

    Raises:
        DataError: no folder, or a part of it that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the folder that contains the files")
    left_out = {path.resolve() for path in apart}
    names_apart = {path.name for path in left_out}
    files, special = list[str](), list[str]()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); change its permissions") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        for name in sorted([*folders, *names]):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                special.append(relative)
            elif path.is_file() and not (name in names_apart and path.resolve() in left_out):
                files.append(relative)
    return Contents(files=tuple(sorted(files)), special=tuple(sorted(special)))


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How the files of a folder differ from a list of digests, each file under one heading.

    Args:
        changed: files with other bytes, and for each the file whose listed bytes it has now, or "".
        added: files that are not listed.
        removed: listed files that are missing.
        renamed: pairs of a listed name and the new name of the same bytes.
        swapped: pairs of files that have exchanged their bytes.
        digests: present digest of each changed and each added file.
    """

    changed: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    swapped: tuple[tuple[str, str], ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return any((self.changed, self.added, self.removed, self.renamed, self.swapped))

    def sentences(self) -> Iterator[str]:
        """Yield one line for each file, or pair of files, that differs."""
        for name, other in self.changed.items():
            moved = f", which now has the bytes of {other}" if other else ""
            yield f"changed: {name}{moved} (digest now {self.digests[name]})"
        yield from (f"swapped: {one} and {other}" for one, other in self.swapped)
        yield from (f"renamed: {old} to {new}" for old, new in self.renamed)
        yield from (f"removed: {name}" for name in self.removed)
        yield from (f"added: {name} (digest {self.digests[name]})" for name in self.added)


def differences(listed: Mapping[str, str], found: Mapping[str, str]) -> Differences:
    """Compare the digests of files with those of a list.

    A missing file whose bytes are in a new file counts as renamed. If several fit, they are paired in alphabetical order.

    Args:
        listed: digest of each file of the list, by name.
        found: digest of each file of the folder, by name.
    """
    other = {name: digest for name, digest in sorted(found.items()) if name in listed and digest != listed[name]}
    first = {digest: name for name, digest in sorted(listed.items(), reverse=True)}  # of equal files, the first in the alphabet
    kinds = defaultdict[tuple[str, str], list[str]](list)  # changed files by their listed and their present digest
    for name, digest in other.items():
        kinds[listed[name], digest].append(name)
    swapped = sorted(pair for (old, new), names in kinds.items() if old < new for pair in zip(names, kinds.get((new, old), ()), strict=False))
    paired = {name for pair in swapped for name in pair}
    homeless = defaultdict[str, list[str]](list)  # added files by their digest, the last in the alphabet first
    for name in sorted(found.keys() - listed.keys(), reverse=True):
        homeless[found[name]].append(name)
    removed, renamed = list[str](), list[tuple[str, str]]()
    for name in sorted(listed.keys() - found.keys()):
        if homeless.get(listed[name]):
            renamed.append((name, homeless[listed[name]].pop()))
        else:
            removed.append(name)
    return Differences(
        changed={name: first.get(digest, "") for name, digest in other.items() if name not in paired},
        added=tuple(sorted(name for names in homeless.values() for name in names)),
        removed=tuple(removed),
        renamed=tuple(renamed),
        swapped=tuple((min(pair), max(pair)) for pair in swapped),
        digests={name: digest for name, digest in found.items() if digest != listed.get(name)},
    )


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check of a folder found.

    Args:
        state: "fine", "altered", or "could not check", which says nothing about the files.
        sentence: the finding, or why nothing could be checked.
        differences: the files that differ.
        links: symbolic links and other special files that are in the folder.
        not_covered: files of the folder that the signature leaves out.
    """

    state: State
    sentence: str
    differences: Differences = field(default_factory=Differences)
    links: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()


def listable(folder: Path, *, apart: Collection[Path] = ()) -> tuple[str, ...]:
    """Return the names of the files of a folder that a signature or a description lists: all but those of git (`NOT_COVERED`).

    Raises:
        DataError: no folder, no files, a link, or a name that is no text.
    """
    found = contents(folder, apart=apart)
    if found.special:
        raise DataError(f"{folder / found.special[0]} is a link or a special file, whose content is outside of the folder; replace it by a file, or remove it")
    names = tuple(name for name in found.files if not under(name, NOT_COVERED))
    if not names:
        raise DataError(f"{folder} contains no files")
    if unwritable := next((name for name in names if not utf8(name)), None):
        raise DataError(f"the name {unwritable!r} in {folder} is not valid UTF-8; rename the file")
    return names


def under(name: str, paths: Sequence[str]) -> bool:
    """Return whether a file is one of these paths, or below one."""
    return any(PurePosixPath(name).is_relative_to(path) for path in paths)


def utf8(name: str) -> bool:
    """Return whether a name can be written as UTF-8, as JSON needs it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
