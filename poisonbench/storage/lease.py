"""Leases: a file marks a value that a process computes, so that two processes do not compute it twice.

A lease saves work, it is not a lock. A process that dies or stops refreshing its lease loses it. If two processes compute the same
value nevertheless, both write the same bytes.
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

BEAT = 5.0  # seconds between two refreshes of a lease
STALE = 60.0  # seconds without a refresh after which a lease expires
ASK = 0.2  # seconds between two checks of another process's lease


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds.

    Args:
        path: of its file.
        folders: created for the file, the innermost first.
    """

    path: Path
    folders: tuple[Path, ...]

    def give_up(self) -> None:
        """Remove the file, and the folders created for it if they are empty."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in self.folders:
                folder.rmdir()


def take(path: Path) -> Lease | None:
    """Take the lease at `path`, also from a process that died; None if another process holds it.

    Raises:
        CannotWrite: the disk is full or read-only.
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
            fresh = tuple(folder for folder in path.parents if not folder.exists())  # the folder does not exist yet, or another process has just removed it
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
    """Describe the process that holds the lease; None if there is none, if it died, or if the lease expired."""
    try:
        silent = time.time() - path.stat().st_mtime
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    if silent > STALE:
        return None
    try:
        content = json.loads(bounded(text.decode()))
        pid, host, started = int(content["pid"]), str(content["host"]), str(content["started"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return "a process that has just begun"  # the file exists before its content is written
    if host == socket.gethostname() and _started(pid) != started:
        return None
    return f"process {pid} on {host}"


@contextmanager
def held(leases: Sequence[Lease]) -> Iterator[None]:
    """Refresh these leases while the block runs, then give them up."""
    try:
        _heart.beat_for(leases)
        yield
    finally:
        _heart.rest_from(leases)
        for lease in leases:
            lease.give_up()


class _Heart:
    """One thread refreshes all leases of this process: starting a thread per lease takes longer than storing a small value."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start without leases, as in a forked process: the parent refreshes its leases, and the thread and the lock belong to it."""
        self.paths: set[Path] = set()
        self.due = 0.0  # time of the next refresh, by time.monotonic
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
        """Refresh all leases every `BEAT` seconds until none is left."""
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
                with suppress(OSError):  # given up meanwhile, or a failing disk; the other leases must still be refreshed
                    os.utime(path)


_heart = _Heart()
os.register_at_fork(after_in_child=_heart.forget)


@functools.lru_cache(maxsize=1)
def _own(pid: int) -> bytes:
    """Return the content of a lease of this process."""
    return json.dumps({"pid": pid, "host": socket.gethostname(), "started": _started(pid)}).encode()


def _started(pid: int) -> str:
    """Return the start time of a process of this machine, in clock ticks since boot; "" if it has ended or the time is not available."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended
