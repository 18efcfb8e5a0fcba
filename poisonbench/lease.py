"""Who is making which value: a file beside it, so that two processes never train the same victim.

A lease is a promise to spare work, not a lock: a holder that dies, or whose heart stops, loses it, and where two hold one after
all, both make the same bytes.
"""

from __future__ import annotations

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
    for _ in range(3):
        fresh = tuple(folder for folder in path.parents if not folder.exists())
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if holder(path) is not None:
                return None
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # another process has just tidied the folder away
        else:
            lease = Lease(path, fresh)
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}, stream)
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
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            for lease in leases:
                with suppress(FileNotFoundError):
                    os.utime(lease.path)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        for lease in leases:
            lease.give_up()


def _started(pid: int) -> str:
    """Return when a process of this machine began, as its kernel counts; "" if it is gone, or cannot be asked."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if told[0] in "ZX" else told[19]  # a zombie works no more
