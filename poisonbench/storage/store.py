"""The store: every expensive value is computed once and found again by a key of everything it depends on.

A value has two files: `<stage>-<key>.safetensors`, and a seal with the SHA-256 of its bytes and the seconds it
took. Each is written completely or not at all. A damaged file is reported and computed again. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.files import bounded, file_digest, seal, sealed, write_atomically, write_sealed
from poisonbench.core.keys import Canonical, key
from poisonbench.core.plugins import OWN
from poisonbench.core.progress import labelled
from poisonbench.storage import lease
from poisonbench.storage.freeze import freeze, thaw

log = logging.getLogger("poisonbench")
T = TypeVar("T")
SMALL = 2**20  # bytes; up to here a value is written and read in one piece, at a tenth of the cost; a larger one is never in memory twice
FIRST_LOOK = 0.001  # seconds until the first check of another process's lease; each later pause is 1.5 times as long, up to lease.ASK


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One request for a value.

    Args:
        stage: the kind of value and its label, such as "fit undefended".
        key: the name of the value in the store.
        seconds: how long it took to compute.
        made: whether it was computed now rather than found.
    """

    stage: str
    key: str
    seconds: float
    made: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class _Wanted:
    """Values that are requested together: their names, and by position the values found or made so far, and how."""

    title: str
    names: list[str]
    filed: bool
    found: dict[int, object] = field(default_factory=dict)
    visits: dict[int, Visit] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Store:
    """A folder of values.

    Args:
        root: the folder; created with the first value.
        trusted: prefixes of classes that may be rebuilt from files.
        visits: all requests, in order.
        alone: compute a value even while another process does, as the processes of one training must.
        held: values that must not be written to files, by name; they are lost when the process ends.
    """

    root: Path
    trusted: tuple[str, ...] = OWN
    visits: list[Visit] = field(default_factory=list)
    alone: bool = False
    held: dict[str, object] = field(default_factory=dict)

    def memo(self, stage: str, parts: tuple[object, ...], make: Callable[[], T], *, label: str = "", filed: bool = True) -> T:
        """Return the value that depends on `parts`, from disk if it is there, else from `make`.

        The returned value is always the one in the files, so that the first run and every later run use the same value.

        Args:
            stage: the kind of value; a part of its key.
            parts: everything that the value depends on.
            make: computes it; its result is a tree of frozen dataclasses, tensors and numbers.
            label: which of several values of this kind, for logs and progress.
            filed: false keeps the value in the memory of this process, for a value that reveals a secret.
        """
        return self.memo_many(stage, [parts], lambda _: [make()], label=label, filed=filed)[0]

    def memo_many(
        self, stage: str, asked: Sequence[tuple[object, ...]], make: Callable[[Sequence[int]], Sequence[T]], *, label: str = "", filed: bool = True
    ) -> list[T]:
        """Return one value for each item of `asked`; one call of `make`, with their positions, computes those that are missing."""
        wanted = _Wanted(title=f"{stage} {label}".strip(), names=[self.named(stage, parts) for parts in asked], filed=filed)
        try:
            self._fill(make, wanted)
        finally:
            self.visits.extend(visit for _, visit in sorted(wanted.visits.items()))  # in the order of the requests, whichever were stored before
        return [cast("T", wanted.found[place]) for place in range(len(asked))]

    def named(self, stage: str, parts: tuple[object, ...]) -> str:
        """Return the name of the value that depends on `parts`."""
        return f"{stage}-{key(stage, *parts)[:24]}"

    def _fill(self, make: Callable[[Sequence[int]], Sequence[object]], wanted: _Wanted) -> None:
        """Find or compute every value."""
        alone = self.alone or not wanted.filed
        while missing := self._missing(wanted):
            leases = {} if alone else {place: got for place in missing if (got := lease.take(self._lease(wanted.names[place])))}
            taken = missing if alone else list(leases)
            if not taken:
                self._wait(wanted.names[missing[0]], wanted.title)
                continue
            with lease.held(list(leases.values())):
                if mine := [place for place in self._missing(wanted) if place in taken]:  # another process may have made some just before
                    self._make(make, mine, wanted)

    def holds(self, names: Iterable[str]) -> bool:
        """Return whether all of these values, named by the keys of a record, are stored; False for no names."""
        names = list(names)
        return bool(names) and all((self.root / f"{name}.safetensors").is_file() for name in names)

    def _missing(self, wanted: _Wanted) -> list[int]:
        """Load the values that are stored, and return the positions of the others."""
        for place, name in enumerate(wanted.names):
            if place not in wanted.found and (kept := self._load(name) if wanted.filed else self._held(name)) is not None:
                wanted.found[place], seconds = kept
                log.info("%s: from the store (%s)", wanted.title, name)
                wanted.visits[place] = Visit(stage=wanted.title, key=name, seconds=seconds, made=False)
        return [place for place in range(len(wanted.names)) if place not in wanted.found]

    def _make(self, make: Callable[[Sequence[int]], Sequence[object]], places: Sequence[int], wanted: _Wanted) -> None:
        start = time.perf_counter()
        with labelled(wanted.title):
            fresh = make(places)
        seconds = (time.perf_counter() - start) / len(places)
        for place, value in zip(places, fresh, strict=True):
            name = wanted.names[place]
            if wanted.filed:
                wanted.found[place] = self._keep(name, value, seconds)
            else:
                wanted.found[place] = self.held[name] = value
            log.info("%s: made in %.1f s (%s)", wanted.title, seconds, name)
            wanted.visits[place] = Visit(stage=wanted.title, key=name, seconds=seconds, made=True)

    def _lease(self, name: str) -> Path:
        return self.root / f"{name}.lease"

    def _wait(self, name: str, title: str) -> None:
        """Wait until no other process computes the value."""
        if who := lease.holder(self._lease(name)):
            log.info("%s: %s is computing it (%s)", title, who, name)
        pause = FIRST_LOOK
        while lease.holder(self._lease(name)):
            time.sleep(min(pause, lease.ASK))
            pause *= 1.5

    def _keep(self, name: str, value: object, seconds: float) -> object:
        """Write a value, and return it rebuilt from the written bytes, as every later run will read it."""
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(freeze(value, tensors))
        path = self.root / f"{name}.safetensors"
        if sum(tensor.nbytes for tensor in tensors.values()) <= SMALL:
            content = safetensors.torch.save(tensors, {"tree": tree})
            again = self._thawed(content)
            write_sealed(path, content, seconds)
            return again
        write_tensors(path, tensors, {"tree": tree})
        seal(path, seconds)
        loaded = self._load(name)
        assert loaded is not None, f"{name} was written and cannot be read"
        return loaded[0]

    def _held(self, name: str) -> tuple[object, float] | None:
        return (self.held[name], 0.0) if name in self.held else None

    def _load(self, name: str) -> tuple[object, float] | None:
        path = self.root / f"{name}.safetensors"
        if not (path.is_file() and path.with_suffix(".sha256").is_file()):
            return None
        try:
            digest, seconds = sealed(path)
            content = path.read_bytes() if path.stat().st_size <= SMALL else None
            if (file_digest(path) if content is None else hashlib.sha256(content).hexdigest()) != digest:
                raise ValueError("its SHA-256 differs")
            if content is not None:
                return self._thawed(content), seconds
            with safe_open(path, framework="pt") as file:
                tree: Canonical = json.loads(bounded(file.metadata()["tree"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            return thaw(tree, tensors, self.trusted), seconds
        except ConfigError:
            raise  # a class that is not trusted
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            log.warning("%s cannot be used (%s); it is computed again", path, str(error))  # as text: an error object would keep its frames in memory
            return None

    def _thawed(self, content: bytes) -> object:
        """Rebuild a value from the bytes of its file."""
        tensors = safetensors.torch.load(content)  # first, because it checks the header that the next lines read
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        tree: Canonical = json.loads(bounded(json.loads(bounded(header.decode()))["__metadata__"]["tree"]))
        return thaw(tree, tensors, self.trusted)


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write tensors and notes on them as safetensors, atomically.

    Raises:
        CannotWrite: the disk is full or read-only.
    """

    def save(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(tensors, temporary, notes)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_atomically(path, save)
