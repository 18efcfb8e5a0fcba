"""Describe a folder of data in the Croissant format 1.1, and check its files against such a description.

The description is JSON that we write ourselves; mlcroissant validates it where it is installed. mlcroissant 1.1.1 compares the digest of
a file only when it reads the file, and accepts no capital letters in digests. `check` compares all files before anything is read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import bounded, file_digest, write_text
from poisonbench.provenance.folder import NOT_COVERED, Checked, contents, differences, listable, under
from poisonbench.provenance.tables import FORMATS, Column, columns

Json: TypeAlias = "dict[str, object]"
NAME = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.1"
PICTURES = {**dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"), ".png": "image/png", ".gif": "image/gif", ".bmp": "image/bmp", ".webp": "image/webp"}
OTHERS = {".txt": "text/plain", ".json": "application/json", ".md": "text/markdown", ".zip": "application/zip", ".tar": "application/x-tar"}
ENCODINGS = {**FORMATS, **PICTURES, **OTHERS}
TERMS = (  # of Croissant; all other words are those of schema.org
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
    *("includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
    *("replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT: Mapping[str, object] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in TERMS},
}
TEXTS = {"description": "description", "license": "license", "url": "url", "version": "version", "date": "datePublished", "citation": "citeAs"}


@dataclass(frozen=True, kw_only=True)
class Described:
    """A description of a folder, and what the user should know about it.

    Args:
        whole: the description.
        notes: tables that could not be read, and columns that are left out.
    """

    whole: Json
    notes: tuple[str, ...]


@dataclass
class _Ids:
    """Names for nodes: letters, digits and `._/-` only, because mlcroissant accepts no space in them; each name is given once."""

    given: set[str] = field(default_factory=set)

    def of(self, text: str) -> str:
        """Return a new name like the text."""
        plain = re.sub(r"[^A-Za-z0-9._/-]", "_", text)
        name, count = plain, 1
        while name in self.given:
            count += 1
            name = f"{plain}_{count}"
        self.given.add(name)
        return name


def describe(folder: Path, texts: Mapping[str, str], out: Path) -> Described:
    """Describe the files of a folder.

    Args:
        folder: class folders of pictures, tables, or any other files.
        texts: what the user says: name, description, license, url, creator, version, date, citation.
        out: the file of the description, which is no part of the data.

    Raises:
        DataError: no folder, a folder without files or with links, or a file that cannot be read.
    """
    names, ids = listable(folder, apart=[out]), _Ids()
    known = {name: ids.of(name) for name in names}
    objects = [_object(folder, name, known[name]) for name in names]
    sets, records = _pictures(names, ids)
    notes: list[str] = []
    for name in names:
        if PurePosixPath(name).suffix.lower() in FORMATS:
            try:
                found = columns(folder / name)
            except DataError as error:
                notes.append(f"no columns for {name}: {error}")
                continue
            notes += [f"{name}: column {column.name} is left out, because its values have no plain type" for column in found if not column.kind]
            records.append(_table(name, known[name], [column for column in found if column.kind], ids))
    whole: Json = {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": texts.get("name", folder.resolve().name),
        "description": f"{len(names)} files of the folder {folder.resolve().name}.",
        **{term: texts[key] for key, term in TEXTS.items() if key in texts},
        **({"creator": {"@type": "sc:Organization", "name": texts["creator"]}} if "creator" in texts else {}),
        "distribution": [*objects, *sets],
        "recordSet": [record for record in records if record["field"]],
    }
    return Described(whole=whole, notes=tuple(notes))


def _object(folder: Path, name: str, identity: str) -> Json:
    path = folder / name
    try:
        size, digest = path.stat().st_size, file_digest(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    return {
        "@type": "cr:FileObject",
        "@id": identity,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": ENCODINGS.get(PurePosixPath(name).suffix.lower(), "application/octet-stream"),
        "sha256": digest,
    }


def _pictures(names: Sequence[str], ids: _Ids) -> tuple[list[Json], list[Json]]:
    """Return a set of files, and a set of records, for the pictures of each format; pictures in folders are labelled by their folder."""
    sets, records = list[Json](), list[Json]()
    for suffix in sorted({PurePosixPath(name).suffix for name in names}):
        kind = PICTURES.get(suffix.lower())
        mine = [name for name in names if PurePosixPath(name).suffix == suffix]
        if kind is None or len(mine) < 2:
            continue
        depths = sorted({name.count("/") for name in mine})
        identity = ids.of(f"pictures-{suffix.lstrip('.')}")
        includes = ["*/" * depth + f"*{suffix}" for depth in depths]
        sets.append({"@type": "cr:FileSet", "@id": identity, "name": identity, "encodingFormat": kind, "includes": includes})
        columns = {"image": ("sc:ImageObject", {"extract": {"fileProperty": "content"}}), "file": ("sc:Text", {"extract": {"fileProperty": "fullpath"}})}
        if 0 not in depths:
            label = {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": "^(?:.*/)?([^/]*)/[^/]*$"}}
            columns["label"] = ("sc:Text", label)
        records.append(
            _records(f"{identity}/rows", identity, {name: (kind, {"fileSet": {"@id": identity}, **source}) for name, (kind, source) in columns.items()}, ids)
        )
    return sets, records


def _table(name: str, identity: str, found: Sequence[Column], ids: _Ids) -> Json:
    def source(column: Column) -> Json:
        inside = {"transform": {"jsonPath": column.inside}} if column.inside else {}
        return {"fileObject": {"@id": identity}, "extract": {"column": column.name}, **inside}

    return _records(f"{identity}/rows", name, {column.name: (column.kind, source(column)) for column in found}, ids)


def _records(identity: str, name: str, sources: Mapping[str, tuple[str, Json]], ids: _Ids) -> Json:
    whole = ids.of(identity)
    fields = [
        {"@type": "cr:Field", "@id": ids.of(f"{whole}/{column}"), "name": column, "dataType": kind, "source": source}
        for column, (kind, source) in sources.items()
    ]
    return {"@type": "cr:RecordSet", "@id": whole, "name": f"rows of {name}", "field": fields}


def write(described: Described, out: Path) -> tuple[str, ...]:
    """Validate a description, write it, and return what is recommended but missing.

    Raises:
        ConfigError: another file would be replaced.
        DataError: mlcroissant refuses the description; nothing is written.
    """
    if out.is_dir():
        raise ConfigError(f"out={out}: this is a folder; name a file")
    if out.exists() and VERSION.rpartition("/")[0] not in out.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"out={out}: this file exists and is no Croissant description; name another file")
    missing = validated(described.whole)
    write_text(out, json.dumps(described.whole, indent=1, ensure_ascii=False) + "\n")
    return missing


def validated(whole: Json) -> tuple[str, ...]:
    """Return what mlcroissant recommends to add; where it is not installed, the sentence that says so.

    Raises:
        DataError: the description is not valid; says why.
    """
    if find_spec("mlcroissant") is None:
        return ('not validated, because mlcroissant is not installed: pip install "poisonbench[provenance]"',)
    with _quiet():
        import mlcroissant

        try:
            issues = mlcroissant.Dataset(jsonld=whole).metadata.issues
        except (mlcroissant.ValidationError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"this would be no valid Croissant description, so nothing was written ({error})") from error
    return tuple(
        sorted(
            f"recommended, but not given: {re.sub(r'.*/', '', found[1])}" for each in issues.warnings if (found := re.search('"([^"]+)" is recommended', each))
        )
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep mlcroissant and its parser from logging what we print ourselves."""
    logger = logging.getLogger("absl")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def check(folder: Path, description: Path) -> Checked:
    """Compare the files of a folder with the digests of a Croissant description, before anything reads them.

    A digest may be in capital letters. Files that are described without a SHA-256 are named as not covered.

    Raises:
        DataError: no folder, or no description.
    """
    here = contents(folder, apart=[description])
    if description.is_dir():
        raise DataError(f"out={description}: this is a folder; name the file of the description")
    if not description.is_file():
        raise DataError(f"{description} does not exist; write it with `provenance croissant {folder}`, or name it with out=FILE")
    try:
        listed, without = _digests(description)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Checked(state="could not check", sentence=f"{description} is no Croissant description whose digests can be read ({error})")
    if not listed:
        return Checked(state="could not check", sentence=f"{description} has no SHA-256 of any file of the folder")
    covered = [name for name in here.files if name in listed or (name not in without and not under(name, NOT_COVERED))]
    try:
        found = {name: file_digest(folder / name) for name in covered}
    except OSError as error:
        return Checked(state="could not check", sentence=f"{error.filename} cannot be read ({error.strerror})")
    if not listed.keys() & found.keys() and not {*listed.values()} & {*found.values()}:
        of = f"none of its {len(listed)} files is in {folder}, by name or by content"
        return Checked(state="could not check", sentence=f"{description} describes another folder: {of}")
    differ = differences({name: digest for name, digest in listed.items() if name not in here.special}, found)
    left = tuple(name for name in here.files if name not in covered)
    if not differ and not here.special:
        return Checked(state="fine", sentence=f"all {len(found)} files have the digests of {description.name}", not_covered=left)
    return Checked(state="altered", sentence=f"the folder differs from {description.name}", differences=differ, links=here.special, not_covered=left)


def _digests(description: Path) -> tuple[dict[str, str], set[str]]:
    """Return the digest of each file by its name, and the names of files that are described without one.

    Raises:
        ValueError: a file outside of the folder, two digests of one file, or a digest that is none.
    """
    whole = json.loads(bounded(description.read_text(encoding="utf-8")))
    distribution = whole["distribution"]
    listed, without = dict[str, str](), set[str]()
    for each in distribution if isinstance(distribution, list) else [distribution]:
        kinds = each.get("@type")
        if not any(str(kind).endswith("FileObject") for kind in (kinds if isinstance(kinds, list) else [kinds])) or each.get("containedIn"):
            continue
        name, digest = str(each["contentUrl"]), each.get("sha256")
        inside = PurePosixPath(name)
        if "://" in name or inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{name} is outside of the folder")
        name = inside.as_posix()
        if digest is None:
            without.add(name)
            continue
        if not re.fullmatch("[0-9a-fA-F]{64}", str(digest)):
            raise ValueError(f"the SHA-256 of {name} is {str(digest)[:70]!r}; it has to have 64 hexadecimal digits")
        if listed.setdefault(name, str(digest).lower()) != str(digest).lower():
            raise ValueError(f"{name} has two digests")
    return listed, without
