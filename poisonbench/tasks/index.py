"""Pictures and captions from the web: an index and the pictures that were fetched, as img2dataset writes both.

Shape letters: N rows, L words of a caption.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import file_digest
from poisonbench.core.form import IDENTITY, Column
from poisonbench.core.keys import key
from poisonbench.forms.hashes import digests
from poisonbench.forms.tokens import PADDING, words_of
from poisonbench.storage.store import Store
from poisonbench.tasks.captions import NO_CLASS, Captions, Kinds, class_words
from poisonbench.tasks.fetched import SUCCESS, Chosen, Row, Shard, check_urls, host, shards
from poisonbench.tasks.listing import Entry, by_folders
from poisonbench.tasks.pictures import STORED, Encoded, Pictures, folder, in_order, quiet
from poisonbench.tasks.sheet import located
from poisonbench.tasks.source import NO_COLUMNS, UNLABELLED, Put, Raw, Split, copied
from poisonbench.tasks.writing import Copy, check_same, named, write_parquet

log = logging.getLogger("poisonbench")
REENCODED = "img2dataset computes digests before it scales pictures; it keeps their bytes with --resize_mode no --disable_all_reencoding True"


class Pair(NamedTuple):
    """A picture that was fetched, and what the index says about it.

    Args:
        row: the row of the index.
        shard: the shard that has its picture.
        host: the host name of its url.
    """

    row: Row
    shard: Shard
    host: str


@dataclass(frozen=True, kw_only=True)
class Index(Split):
    """Pairs of a picture and a caption, from an index in Parquet and the pictures that were fetched.

    `root` is a folder of shards, as img2dataset writes it: 00000.parquet with the columns url, caption, key, status and sha256 (or md5, sha512), and
    its pictures in 00000.tar, in the folder 00000, or in a column of bytes. Or it is one index, and `images` names the folder of its pictures.
    Rows whose status is not "success" are left out. So are rows without a picture if the index has no status, or has the pictures in a column.
    A warning says how many.

    The label of a row is the class that its caption names first. Rows that name none get one further class, the last one. A row has three further
    columns. "caption" (N, L) has the words of the caption. "domain" (N,) has the number of the host name of the url, in alphabetical order. "sha256"
    (N, 32) has the digest that was promised: SHA-256 of the decoded pixels, if the bytes of the picture have the digest in the index; otherwise the
    digest in the index itself, padded with zeros or cut to 32 bytes, which no pixels have. Test rows from `test_root` have an empty caption, the
    domain -1 and the digest of their pixels.

    Args:
        root: the folder of the shards, or the Parquet file of one index; variables such as $DATA are expanded.
        images: the folder of the pictures of one index: KEY.jpg, or without a column of keys the last part of the url; None: beside the index.
        test_root: a folder of test pictures in one folder for each class; None for none.
        size: scale every picture to this many pixels a side; with None all must have one size.
        grey: read one channel instead of three.
        url: column of the urls; None finds url or URL.
        caption: column of the captions; None finds caption, TEXT or text.
        hash: column of the digests, in hexadecimal digits; None finds sha256, md5 or sha512.
        image: column of the bytes of the pictures, if they are in the index; None finds it.
        unhashed: read an index without digests; the rows then have no column "sha256".
        classes: names of the classes, whose words are searched for in the captions; None takes the names of the folders in `test_root`.
        unlabelled: search for no classes; all rows get one class.
        templates: sentences about a class, with {} in the place of its name; their words are in the vocabulary.
        length: words of a caption that are kept, L.
        words: further words of the vocabulary, such as those of an attack.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    images: str | None
    test_root: str | None
    size: int | None
    grey: bool
    url: str | None
    caption: str | None
    hash: str | None
    image: str | None
    unhashed: bool
    classes: tuple[str, ...] | None
    templates: tuple[str, ...]
    length: int
    words: tuple[str, ...]
    unlabelled: bool = field(default=False, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check what can be checked without the files."""
        super().__post_init__()
        self._captions.check()
        if self.size is not None and self.size < 1:
            raise ConfigError(f"task.size={self.size}: give a number of pixels of 1 or more, or null")
        if self.classes is not None and not self.classes:
            raise ConfigError("task.classes=[]: name one class or more")
        if self.unhashed and self.hash is not None:
            raise ConfigError(f"task.hash={self.hash} names the digests, and task.unhashed=true reads rows without digests; leave one of them out")
        if self.unlabelled and (self.classes is not None or self.test_root is not None):
            named = "task.classes" if self.classes is not None else "task.test_root"
            raise ConfigError(f"{named} names classes, and task.unlabelled=true reads the rows without classes; leave one of them out")

    @property
    def _captions(self) -> Captions:
        return Captions(length=self.length, templates=self.templates, words=self.words)

    @property
    def _asked(self) -> Chosen:
        return Chosen(url=self.url, caption=self.caption, hash=self.hash, image=self.image, unhashed=self.unhashed)

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: an index, a shard or a picture that cannot be read, an index without digests, a digest in another form, or a url in two rows.
                The message names the file and the row; nothing is written.
            ConfigError: no classes, or two with the same words.
        """
        root, pairs = self.pairs()
        tested = self._tested()
        names = self._names([entry.label for entry in tested])
        labels = self._labels([pair.row for pair in pairs], names)
        every = (*names, NO_CLASS) if len(names) in labels else names
        raw = self._decoded(root, Rows(pairs, labels, tested, every), store)
        raw = self._with_captions(root, raw, pairs, () if self.unlabelled else names)
        return self._answerable(self.task(root.resolve().stem, raw), len(names))

    def _answerable(self, task: Task, named: int) -> Task:
        """Return the task without test rows whose caption names no class, since no answer to them is right; a warning counts them."""
        right = task.test.labels < named
        if lost := int((~right).sum()):
            log.warning("%s: %d of %d test rows are left out, because their caption names no class", task.name, lost, len(right))
        return dataclasses.replace(task, test=task.test.take(right)) if lost else task

    def pairs(self) -> tuple[Path, list[Pair]]:
        """Return the place of the index and the rows that have a picture; warnings say which rows and pictures are left out.

        Raises:
            DataError: as for `load`.
        """
        single = self.images is not None or (self.root is not None and named(self.root).is_file())
        root = located(self.root, "task.root") if single else folder(self.root)
        images = None if self.images is None else folder(self.images, "task.images")
        pairs, every = list[Pair](), list[Row]()
        for shard in shards(root, images, self._asked):
            pairs += [Pair(row, shard, host(row)) for row in shard.fetched()]
            every += shard.rows
            if extra := sorted({*shard.holder.keys} - {row.key for row in shard.rows}):
                log.warning("%s: %d pictures that no row of the index names are left out (the first is %s)", shard.holder.path, len(extra), extra[0])
        check_urls(every)
        if not pairs:
            raise DataError(f"{root} has no row with a picture; fetch the pictures first, or set task.root to another folder")
        kept = {pair.row.where for pair in pairs}
        if lost := [row for row in every if row.where not in kept]:
            why = f", {lost[0].status}" if lost[0].status not in ("", SUCCESS) else ""
            log.warning("%s: %d of %d rows have no picture and are left out (the first is %s%s)", root, len(lost), len(every), lost[0].where, why)
        return root, pairs

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the shards without some rows and without their pictures, texts and metadata; see `Split.kept`.

        Rows of the index without a picture stay. Test pictures of `test_root` are copied only if they are below `root`. Files beside the shards are
        copied as they are, so counts in them are those of all rows.

        Raises:
            DataError: the copy would not have the same rows.
        """
        with quiet():
            root, pairs = self.pairs()
        gone = {pair.row.where for ident, pair in enumerate(pairs) if ident in dropped}
        images = () if self.images is None else (folder(self.images, "task.images"),)
        copy = Copy(root, images, out, put)
        found = list(shards(root, images[0] if images else None, self._asked))
        rows = [row for shard in found for row in shard.rows]
        write_parquet([shard.path for shard in found], {place for place, row in enumerate(rows) if row.where in gone}, copy)
        known = [shard.path for shard in found]
        for shard in found:
            known += shard.holder.write({row.key for row in shard.rows if row.where in gone}, copy)
        if root.is_dir():
            copy.copy_others(known)
        again = dataclasses.replace(self, root=str(copy.place(root)), images=str(copy.place(images[0])) if images else None)
        with quiet():
            check_same([_said(pair) for pair in pairs if pair.row.where not in gone], lambda: [_said(pair) for pair in again.pairs()[1]], root)
        return copy.place(root)

    def _tested(self) -> list[Entry]:
        """Return the test pictures: those of the test split, if `test_root` has splits."""
        if self.test_root is None:
            return []
        found = by_folders(folder(self.test_root, "task.test_root"), None)
        return list(found.test or found.train)

    def _names(self, tested: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their numbers.

        Raises:
            DataError: test pictures of another class.
            ConfigError: no classes, or names without a word, or two names with the same words.
        """
        if self.unlabelled:
            return (UNLABELLED,)
        if self.classes is None and not tested:
            raise ConfigError("name the classes that captions name, as task.classes=[cat,dog] or task.test_root=DIR; task.unlabelled=true reads none")
        names = in_order(tested) if self.classes is None else self.classes
        kinds = [" ".join(class_words(name)) for name in names]
        if odd := [name for name, kind in zip(names, kinds, strict=True) if not kind or kinds.count(kind) > 1 or name == NO_CLASS]:
            raise ConfigError(f"task.classes: the class {odd[0]!r} needs words of its own, which no other class has; rename it")
        if strange := sorted({*tested} - {*names}):
            known = f"is no class of task.classes, which are {', '.join(names)}"
            raise DataError(f"{self.test_root}: the folder {strange[0]} {known}; rename or remove it")
        return names

    def _labels(self, rows: Sequence[Row], names: Sequence[str]) -> list[int]:
        """Return the class of each row; the number of classes for a caption that names none."""
        if self.unlabelled:
            return [0] * len(rows)
        kinds = Kinds.of(names)
        return [kinds.first(words_of(row.caption)) for row in rows]

    def _decoded(self, root: Path, rows: Rows, store: Store) -> Raw:
        """Return the pixels and the labels of both splits, and the digests; from the store if they were decoded before."""
        held = {id(pair.shard): pair.shard for pair in rows.pairs}.values()
        tested = [(entry.label, file_digest(entry.path)) for entry in rows.tested]
        source = key([[file_digest(shard.path), shard.holder.content] for shard in held], tested)
        chosen = (self.url, self.caption, self.hash, self.image, self.unhashed)
        return store.memo("pixels", ("index", self.VERSION, STORED, source, rows.names, self.size, self.grey, chosen), lambda: self._raw(root, rows))

    def _raw(self, root: Path, rows: Rows) -> Raw:
        """Decode the pictures.

        Raises:
            DataError: a picture that cannot be decoded, or sizes that differ.
        """
        same = list[bool]()

        def train() -> Iterator[Encoded]:
            for (row, shard, _), label in zip(rows.pairs, rows.labels, strict=True):
                content = shard.holder.read(row.key)
                same.append(shard.algorithm is not None and hashlib.new(shard.algorithm, content).hexdigest() == row.digest)
                yield Encoded(f"{row.where} ({row.key})", content, label, row.url)

        numbers = {name: number for number, name in enumerate(rows.names)}
        home = root if self.test_root is None else folder(self.test_root, "task.test_root")
        test = (Encoded(str(path), path.read_bytes(), numbers[label], str(path.relative_to(home))) for path, label in rows.tested)
        reader = Pictures(root=self.root, size=self.size, grey=self.grey, limit=None, trusted=0.0, public=0.0, split_seed=0)
        raw = reader.raw(train(), test, rows.names, root)
        if self.unhashed:
            return raw
        if strange := [pair.row for pair, equal in zip(rows.pairs, same, strict=True) if not equal]:
            told = f"{root}: the bytes of {len(strange)} of {len(same)} pictures have another digest than the index (the first is {strange[0].where})"
            log.warning("%s%s", told, f"; {REENCODED}" if len(strange) == len(same) else "")
        promised = digests(raw.train["inputs"])
        for place, (equal, pair) in enumerate(zip(same, rows.pairs, strict=True)):
            if not equal:
                promised[place] = _padded(pair.row.digest)
        return dataclasses.replace(
            raw,
            train={**raw.train, "sha256": promised},
            test={**raw.test, "sha256": digests(raw.test["inputs"])},
            columns=MappingProxyType({"sha256": IDENTITY}),
        )

    def _with_captions(self, root: Path, raw: Raw, pairs: Sequence[Pair], names: Sequence[str]) -> Raw:
        """Return the rows with the columns "caption" and "domain", and the form of the labels, whose first classes have these names."""
        form, captions = self._captions.encoded(str(root), [pair.row.caption for pair in pairs], raw.class_names)
        numbers = {name: number for number, name in enumerate(sorted({pair.host for pair in pairs}))}
        tested = len(raw.test["labels"])
        train = {"caption": captions, "domain": torch.tensor([numbers[pair.host] for pair in pairs])}
        test = {"caption": captions.new_full((tested, self.length), PADDING), "domain": torch.full((tested,), -1)}
        columns: Mapping[str, Column] = {
            **(NO_COLUMNS if self.unhashed else {"sha256": IDENTITY}),
            "caption": Column(form=form, role="said"),
            "domain": IDENTITY,
        }
        return dataclasses.replace(
            raw,
            train={**raw.train, **train},
            test={**raw.test, **test},
            columns=MappingProxyType(columns),
            answers=self._captions.prompts(form, names, len(raw.class_names)),
        )


class Rows(NamedTuple):
    """What is decoded.

    Args:
        pairs: training rows.
        labels: their classes.
        tested: test pictures.
        names: of the classes.
    """

    pairs: list[Pair]
    labels: list[int]
    tested: list[Entry]
    names: tuple[str, ...]


def _said(pair: Pair) -> tuple[str, str, str, str]:
    """Return what the index says about a pair."""
    return pair.row.url, pair.row.caption, pair.row.key, pair.row.digest


def _padded(digest: str) -> Tensor:
    """Return (32,) uint8, the first bytes of a digest in hexadecimal digits, with zeros at the end of a shorter one."""
    return torch.tensor([*bytes.fromhex(digest)[:32].ljust(32, b"\0")], dtype=torch.uint8)
