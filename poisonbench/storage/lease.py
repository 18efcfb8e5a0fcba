"""Who is making which value: a file beside it, so that two processes never train the same victim.

A lease is a promise to spare work, not a lock: a holder that dies, or whose heart stops, loses it, and where two hold one after
all, both make the same bytes.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from poisonbench.core.errors import CannotWrite
from poisonbench.core.files import bounded

BEAT = 5.0  # seconds from one sign of life to the next
STALE = 60.0  # seconds without one after which a lease is void
ASK = 0.2  # seconds between two looks at a lease that another holds


@dataclass(frozen=True)
class Lease:
    """What `take` gives.

    Args:
        path: of its file.
        folders: made for it, the innermost first.
    """

    path: Path
    folders: tuple[Path, ...]

    def give_up(self) -> None:
        """Remove the file, and the folders made for it that nothing else has come to lie in."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in self.folders:
                folder.rmdir()


def take(path: Path) -> Lease | None:
    """Take the lease at `path`, over a dead holder if need be; None if another holds it.

    Raises:
        CannotWrite: the disk takes no more.
    """
    fresh: tuple[Path, ...] = ()
    for _ in range(4):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if holder(path) is not None:
                return None
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            fresh = tuple(folder for folder in path.parents if not folder.exists())  # nothing lies there yet, or another has just tidied it away
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            lease = Lease(path, fresh)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(_own(os.getpid()))
            except OSError as error:
                lease.give_up()
                raise CannotWrite(f"{path} cannot be written ({error.strerror or error}); free some space, or name another folder") from error
            return lease
    return None


def holder(path: Path) -> str | None:
    """Return who holds the lease, in words; None if nobody does, or a process that is dead or has gone silent."""
    try:
        silent = time.time() - path.stat().st_mtime
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    if silent > STALE:
        return None
    try:
        told = json.loads(bounded(text.decode()))
        pid, host, started = int(told["pid"]), str(told["host"]), str(told["started"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return "a process that has just begun"  # the file is there before what stands in it
    if host == socket.gethostname() and _started(pid) != started:
        return None
    return f"process {pid} on {host}"


@contextmanager
def held(leases: Sequence[Lease]) -> Iterator[None]:
    """Give signs of life for these leases while the block runs, then give them up."""
    try:
        _heart.beat_for(leases)
        yield
    finally:
        _heart.rest_from(leases)
        for lease in leases:
            lease.give_up()


class _Heart:
    """One thread for all leases of this process: starting one for each lease takes longer than keeping a small value."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked process does: its parent beats for the leases, and neither the thread nor the lock is its own."""
        self.paths: set[Path] = set()
        self.due = 0.0  # when it beats next, by time.monotonic
        self.alive = False
        self.changed = threading.Condition()

    def beat_for(self, leases: Sequence[Lease]) -> None:
        with self.changed:
            self.paths.update(lease.path for lease in leases)
            if (due := time.monotonic() + BEAT) < self.due or not self.alive:
                self.due = due
                self.changed.notify()
            if not self.alive:
                threading.Thread(target=self._run, name="leases", daemon=True).start()
                self.alive = True

    def rest_from(self, leases: Sequence[Lease]) -> None:
        with self.changed:
            self.paths.difference_update(lease.path for lease in leases)

    def _run(self) -> None:
        """Beat until there is no lease left at a beat."""
        while True:
            with self.changed:
                while (left := self.due - time.monotonic()) > 0:
                    self.changed.wait(left)
                if not self.paths:
                    self.alive = False
                    return
                paths = tuple(self.paths)
                self.due = time.monotonic() + BEAT
            for path in paths:
                with suppress(OSError):  # given up since, or a disk that fails: the other leases need their beat
                    os.utime(path)


_heart = _Heart()
os.register_at_fork(after_in_child=_heart.forget)


@functools.lru_cache(maxsize=1)
def _own(pid: int) -> bytes:
    """Return what stands in the leases of this process."""
    return json.dumps({"pid": pid, "host": socket.gethostname(), "started": _started(pid)}).encode()


def _started(pid: int) -> str:
    """Return when a process of this machine began, as its kernel counts; "" if it is gone, or cannot be asked."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if told[0] in "ZX" else told[19]  # a zombie works no more
