"""The store: every costly value is computed once and found again by what it is made of.

A value lies in two files, `<stage>-<key>.safetensors` and, beside it, the SHA-256 of its bytes and the seconds
it took, each written whole. A damaged file is reported and recomputed, never trusted. No pickle.
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
SMALL = 2**20  # bytes of a value that is written and read in one piece, a tenth of the cost; a larger one never lies in memory twice
FIRST_LOOK = 0.001  # seconds until the first look at a lease that another holds; each later pause is half as long again, up to lease.ASK


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One value asked of the store.

    Args:
        stage: what was asked for, such as "fit undefended".
        key: the key it lies under.
        seconds: what it cost when it was made.
        made: it was made now, not found.
    """

    stage: str
    key: str
    seconds: float
    made: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class _Wanted:
    """Values asked for together, by place: their names, and what has been found or made of them so far, with how."""

    title: str
    names: list[str]
    filed: bool
    found: dict[int, object] = field(default_factory=dict)
    visits: dict[int, Visit] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Store:
    """A folder of values.

    Args:
        root: the folder; made when the first value is kept.
        trusted: prefixes of classes that may be rebuilt from files.
        visits: all that was asked for, in order.
        alone: make a value even while another process makes it, as the processes of one training must.
        held: values that no file may hold, by name; they are gone with the process.
    """

    root: Path
    trusted: tuple[str, ...] = OWN
    visits: list[Visit] = field(default_factory=list)
    alone: bool = False
    held: dict[str, object] = field(default_factory=dict)

    def memo(self, stage: str, parts: tuple[object, ...], make: Callable[[], T], *, label: str = "", filed: bool = True) -> T:
        """Return the value made of `parts`, from disk where it lies there, else from `make`.

        What is returned is always what the files hold, so the first run and every later one see the same value.

        Args:
            stage: the kind of value; a part of its key.
            parts: all that the value depends on.
            make: computes it; its result is a tree of frozen dataclasses, tensors and numbers.
            label: which of several values of this kind, for logs and progress.
            filed: false keeps the value in this process alone, for one that tells a secret.
        """
        return self.memo_many(stage, [parts], lambda _: [make()], label=label, filed=filed)[0]

    def memo_many(
        self, stage: str, asked: Sequence[tuple[object, ...]], make: Callable[[Sequence[int]], Sequence[T]], *, label: str = "", filed: bool = True
    ) -> list[T]:
        """Return one value for each of `asked`; `make` computes those that are missing, given their places, all at once."""
        wanted = _Wanted(title=f"{stage} {label}".strip(), names=[self.named(stage, parts) for parts in asked], filed=filed)
        try:
            self._fill(make, wanted)
        finally:
            self.visits.extend(visit for _, visit in sorted(wanted.visits.items()))  # in the order asked, whatever lay there before
        return [cast("T", wanted.found[place]) for place in range(len(asked))]

    def named(self, stage: str, parts: tuple[object, ...]) -> str:
        """Return the name under which a value made of `parts` is kept."""
        return f"{stage}-{key(stage, *parts)[:24]}"

    def _fill(self, make: Callable[[Sequence[int]], Sequence[object]], wanted: _Wanted) -> None:
        """Find or make every value."""
        alone = self.alone or not wanted.filed
        while missing := self._missing(wanted):
            leases = {} if alone else {place: got for place in missing if (got := lease.take(self._lease(wanted.names[place])))}
            taken = missing if alone else list(leases)
            if not taken:
                self._wait(wanted.names[missing[0]], wanted.title)
                continue
            with lease.held(list(leases.values())):
                if mine := [place for place in self._missing(wanted) if place in taken]:  # somebody may have made it just before
                    self._make(make, mine, wanted)

    def holds(self, names: Iterable[str]) -> bool:
        """Tell whether all of these values lie there, by the keys that a record gives; none is not enough."""
        names = list(names)
        return bool(names) and all((self.root / f"{name}.safetensors").is_file() for name in names)

    def _missing(self, wanted: _Wanted) -> list[int]:
        """Load what lies there, and return the places of the rest."""
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
        """Wait until nobody makes the value any more."""
        if who := lease.holder(self._lease(name)):
            log.info("%s: %s is making it (%s)", title, who, name)
        pause = FIRST_LOOK
        while lease.holder(self._lease(name)):
            time.sleep(min(pause, lease.ASK))
            pause *= 1.5

    def _keep(self, name: str, value: object, seconds: float) -> object:
        """Write a value, and return it rebuilt from the bytes written, as every later run will see it."""
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
            raise  # a class that nobody trusts
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            log.warning("%s is damaged (%s); it is made again", path, str(error))  # who keeps an error keeps all that its frames hold
            return None

    def _thawed(self, content: bytes) -> object:
        """Rebuild a value from the bytes of its file."""
        tensors = safetensors.torch.load(content)  # first: it checks the header that is read here
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        tree: Canonical = json.loads(bounded(json.loads(bounded(header.decode()))["__metadata__"]["tree"]))
        return thaw(tree, tensors, self.trusted)


def write_tensors(path: Path, tensors: dict[str, Tensor], told: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically.

    Raises:
        CannotWrite: the disk takes no more.
    """

    def save(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(tensors, temporary, told)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_atomically(path, save)
