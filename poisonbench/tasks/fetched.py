"""An index of pictures on the web, and the pictures that were fetched, in the layouts of img2dataset: tar files, folders, or a column of bytes.

The index has a row for each picture: url, caption, key, status and a digest of the bytes that the index was made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from poisonbench.core.errors import DataError
from poisonbench.core.shards import Algorithm
from poisonbench.decoders import reading
from poisonbench.tasks.holders import Cells, Folder, Holder, Tar
from poisonbench.tasks.parquet import chosen, holds_bytes, is_text, opened
from poisonbench.tasks.pictures import is_hidden
from poisonbench.tasks.sheet import of_parquet

if TYPE_CHECKING:
    import pyarrow as pa

ALGORITHMS: Mapping[Algorithm, int] = {"md5": 32, "sha256": 64, "sha512": 128}  # hexadecimal digits of a digest
USUAL = {"url": ("url",), "caption": ("caption", "text"), "hash": (*ALGORITHMS,), "key": ("key", "__key__"), "status": ("status",)}
SUCCESS = "success"
UNHASHED = "or read the rows without digests with task.unhashed=true"


class Chosen(NamedTuple):
    """The columns of an index that a user names; None: found by their usual names.

    Args:
        url: addresses.
        caption: texts.
        hash: digests in hexadecimal digits.
        image: bytes of pictures, where the index itself has them.
        unhashed: whether the rows are read without digests.
        uncaptioned: whether the rows are read without captions.
    """

    url: str | None = None
    caption: str | None = None
    hash: str | None = None
    image: str | None = None
    unhashed: bool = False
    uncaptioned: bool = False


class Row(NamedTuple):
    """A row of an index.

    Args:
        where: file and number of the row, for messages.
        url: address.
        caption: text; may be empty.
        key: name of its picture.
        status: what the index says about the download, such as "success"; empty if it says nothing.
        digest: of the bytes, in hexadecimal digits and lower case; empty without digests.
    """

    where: str
    url: str
    caption: str
    key: str
    status: str
    digest: str


class Shard(NamedTuple):
    """An index, or a part of one, and where its pictures are.

    Args:
        path: the Parquet file.
        rows: its rows.
        algorithm: of the digests; None without digests.
        holder: the pictures.
    """

    path: Path
    rows: tuple[Row, ...]
    algorithm: Algorithm | None
    holder: Holder

    def fetched(self) -> list[Row]:
        """Return the rows that have a picture: their status is "success", or the index says nothing about the download.

        Raises:
            DataError: a row whose status is "success" and whose picture is not there, a row with a picture and without a digest, or two rows with
                one key.
        """
        first = dict[str, Row]()
        for row in self.rows:
            here = row.key in self.holder.keys
            if row.status not in ("", SUCCESS) or not (here or (self.holder.STRICT and row.status)):
                continue
            if not here:
                raise DataError(f"{row.where}: {self.holder.path} has no picture with the key {row.key}; fetch it again, or remove the row")
            if first.setdefault(row.key, row) is not row:
                raise DataError(f"{row.where} has the key {row.key}, as {first[row.key].where} has; give each row its own picture")
            if self.algorithm and not row.digest:
                raise DataError(f"{row.where} has a picture and no digest; remove the row, {UNHASHED}")
        return [*first.values()]


def shards(root: Path, images: Path | None, asked: Chosen) -> Iterator[Shard]:
    """Yield the shards of an index, one after the other.

    Args:
        root: a folder of shards, 00000.parquet with 00000.tar or the folder 00000 beside it, or one index.
        images: the folder of the pictures of one index; their names are the keys, or without keys the last parts of the urls. None: beside the index.
        asked: the columns.

    Raises:
        DataError: no index, one that cannot be read, or pictures without an index; the message names the file and the row.
    """
    found = [root] if root.is_file() else sorted(path for path in root.glob("*.parquet") if not is_hidden(Path(path.name)))
    if not found:
        raise DataError(f"{root} has no shards of an index; set task.root to a folder with 00000.parquet, as img2dataset writes it")
    named = {path.stem for path in found}
    if root.is_dir() and (alone := sorted(path for path in root.glob("*.tar") if path.stem not in named)):
        raise DataError(f"{alone[0]} has no index beside it; fetch {alone[0].stem}.parquet too")
    for path in found:
        yield shard(path, images, asked)


def shard(path: Path, images: Path | None, asked: Chosen) -> Shard:
    """Return one shard; see `shards`."""
    with reading(path, "parquet"):
        schema = opened(path).schema_arrow
    names = _columns(path, schema, asked)
    sheet = of_parquet([path], [*names.values()])
    columns = {what: [row[place] or "" for row in sheet.rows] for place, what in enumerate(names)} | {"url": sheet.cells(names["url"])}
    where = [f"{path}, row {number}" for number in sheet.lines]
    holder = _holder(path, images, names.get("key"), _image(path, schema, images, asked.image))
    nothing = [""] * len(where)
    keys = columns.get("key") or [PurePosixPath(urlsplit(url).path).name for url in columns["url"]]
    algorithm = _algorithm(names["hash"], columns["hash"]) if "hash" in names else None
    told = [_digest(place, digest, algorithm) for place, digest in zip(where, columns.get("hash", nothing), strict=True)]
    found = zip(where, columns["url"], columns.get("caption", nothing), keys, columns.get("status", nothing), told, strict=True)
    return Shard(path, tuple(Row(*row) for row in found), algorithm, holder)


def host(row: Row) -> str:
    """Return the host name of the url of a row, in lower case.

    Raises:
        DataError: an address without one.
    """
    try:
        found = urlsplit(row.url).hostname
    except ValueError:
        found = None
    if not found:
        raise DataError(f"{row.where}: {row.url!r} is no url with a host name; correct or remove the row")
    return found


def check_urls(rows: Sequence[Row]) -> None:
    """Check that no url is in two rows.

    Raises:
        DataError: names both rows.
    """
    first = dict[str, Row]()
    for row in rows:
        if first.setdefault(row.url, row) is not row:
            raise DataError(f"{row.where} has the url {row.url}, as {first[row.url].where} has; keep one of them")


def _columns(path: Path, schema: pa.Schema, asked: Chosen) -> dict[str, str]:
    """Return the names of the columns that are read; an index may have no keys and no status.

    Raises:
        DataError: no such column, several, or one whose values are no texts.
    """
    found = dict[str, str]()
    for what, usual in USUAL.items():
        named, likely = getattr(asked, what, None), [name for name in schema.names if name.lower() in usual]
        fixed = what not in Chosen._fields
        if (what == "hash" and asked.unhashed) or (what == "caption" and asked.uncaptioned) or (fixed and not likely):
            continue
        try:
            needed = f"one column named {' or '.join(usual)}"
            found[what] = chosen(path, schema.names, named, [likely[:1] if fixed else likely], f"task.{what}", needed)
        except DataError as error:
            raise DataError(f"{error}{f', {UNHASHED}' if what == 'hash' else ''}") from error
        if not is_text(kind := schema.field(found[what]).type):
            wrong = f"{path}, row 0: the column {found[what]} has values of the type {kind}, and an index has texts there"
            raise DataError(f"{wrong}; write them as texts{'' if fixed else f', or name another column with task.{what}=COLUMN'}")
    return found


def _image(path: Path, schema: pa.Schema, images: Path | None, asked: str | None) -> str | None:
    """Return the column of picture bytes; None if the pictures are elsewhere.

    Raises:
        DataError: the pictures are nowhere.
    """
    tar, folder = path.with_suffix(".tar"), path.with_suffix("")
    if asked is None and (images is not None or tar.is_file() or folder.is_dir()):
        return None
    likely = [field.name for field in schema if holds_bytes(field.type)]
    needed = f"{tar.name}, a folder {folder.name}, or one column of picture bytes"
    return chosen(path, schema.names if asked is None else likely, asked, [likely], "task.image", needed)


def _holder(path: Path, images: Path | None, key: str | None, image: str | None) -> Holder:
    """Return where the pictures of an index are.

    Raises:
        DataError: in two places, or without keys.
    """
    tar, folder = path.with_suffix(".tar"), path.with_suffix("")
    places: list[Holder] = [] if images is None else [Folder(images, by_name=key is None)]
    places += [Tar(tar)] if tar.is_file() and images is None else []
    places += [Folder(folder)] if folder.is_dir() and images is None else []
    places += [] if image is None else [Cells(path, image, key or "")]
    if len(places) > 1:
        raise DataError(f"{path} has pictures in {places[0].path} and in {places[1].path}; keep one of them")
    if key is None and images is None:
        raise DataError(f"{path} has no column of keys, which name the pictures; add the column key, or name their folder with task.images=PATH")
    return places[0]


def _algorithm(name: str, values: Sequence[str]) -> Algorithm:
    """Return the algorithm that the name of a column states, or else the length of its first value."""
    size = len(next(filter(None, values), ""))
    stated = [algorithm for algorithm in ALGORITHMS if algorithm == name.lower()]
    return next(iter(stated or [algorithm for algorithm, digits in ALGORITHMS.items() if digits == size]), "sha256")


def _digest(where: str, value: str, algorithm: Algorithm | None) -> str:
    """Return a digest in lower case.

    Raises:
        DataError: other characters than hexadecimal digits, or another number of them.
    """
    if algorithm is None or not value:
        return ""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{ALGORITHMS[algorithm]}}}", value):
        raise DataError(f"{where}: {value!r} is no digest; {algorithm} gives {ALGORITHMS[algorithm]} hexadecimal digits; correct the row")
    return value.lower()
