"""Write the rows that an audit keeps, in the format of their source; `dropped.csv` beside them names the others."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from poisonbench.core.errors import CannotWrite, ConfigError, DataError
from poisonbench.report.exports import harmless
from poisonbench.report.figures import plain
from poisonbench.tasks.pictures import quiet
from poisonbench.tasks.writing import linked

if TYPE_CHECKING:
    from poisonbench.core.data import Task
    from poisonbench.storage.store import Store
    from poisonbench.tasks.source import Writable

DROPPED = "dropped.csv"
UNJUDGED = ("limit", "test")  # settings of a task under which an audit does not judge all rows of the source


class Kept(NamedTuple):
    """What was written.

    Args:
        root: what `task.root` has to name to read the kept rows.
        dropped: the list of the other rows.
    """

    root: Path
    dropped: Path


def destination(source: Writable, out: str) -> Path:
    """Return the folder that `apply=OUT` names, once everything that writing needs is checked; nothing has been computed yet.

    Raises:
        ConfigError: a folder that is not empty, or that is in the source; or a setting that leaves rows of the source unjudged.
        DataError: the source has no files, or its files cannot be written back, as where a table of pictures cannot be read.
        CannotWrite: no place for temporary files.
    """
    from poisonbench.tasks.source import Split

    folder = Path(os.path.expandvars(out)).expanduser()
    if getattr(type(source), "kept", Split.kept) is Split.kept:
        raise DataError(f"apply={out}: rows of this task cannot be written back, because it generates them or reads a fixed set; leave apply out")
    if unjudged := [f"task.{name}={value}" for name in UNJUDGED if (value := getattr(source, name, None))]:
        fault = f"apply={out}: with {' and '.join(unjudged)} not every row is judged, so rows that no filter saw would be written as kept"
        raise ConfigError(f"{fault}; leave {unjudged[0].partition('=')[0]} out, or leave apply out")
    root = getattr(source, "root", None)
    if root is not None and folder.resolve().is_relative_to(Path(os.path.expandvars(root)).expanduser().resolve()):
        raise ConfigError(f"apply={out}: this is the source or lies in it, task.root={root}; name another folder")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigError(f"apply={out}: it exists and is no empty folder; name a new one")
    nearest = next(above for above in folder.absolute().parents if above.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"apply={out}: {nearest} cannot be written; name a folder that can")
    rehearse(source)
    return folder


def rehearse(source: Writable) -> None:
    """Write all rows of the source into a temporary folder, with links in place of copies, so that an error comes before an audit and not after it.

    Raises:
        DataError: the source cannot be written back.
        CannotWrite: no place for temporary files.
    """
    try:
        with quiet(), tempfile.TemporaryDirectory() as place:
            source.kept((), Path(place), linked)
            _check_free(Path(place) / DROPPED)
    except OSError as error:
        reason = error.strerror or error
        raise CannotWrite(f"temporary files cannot be written ({reason}); free some space, or set TMPDIR to another folder") from error


def write_kept(source: Writable, task: Task, dropped: Mapping[int, str], out: Path, store: Store) -> Kept:
    """Write the source without some rows into a new folder; an interrupted write leaves at most a hidden temporary folder beside it.

    Args:
        source: recipe of the task.
        task: as it was judged.
        dropped: for each row to leave out its id, and the reason.
        out: see `destination`.
        store: keeps decoded pixels.

    Raises:
        DataError: the files changed since the task was loaded, all rows of a class would be left out, or the source cannot be written back.
        CannotWrite: the disk is full, or the folder must not be written.
    """
    _check_classes(task, dropped.keys())
    with quiet():
        now = source.load(store)
    if (now.digest, now.row_names) != (task.digest, task.row_names):
        raise DataError(f"the files at {getattr(source, 'root', task.name)} changed since they were judged; repeat the audit")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
        try:
            temporary.chmod(0o755)  # mkdtemp makes a folder that only its owner may read
            root = source.kept(dropped.keys(), temporary)
            _write_dropped(task, dropped, temporary / DROPPED)
            temporary.rename(out)  # replaces an empty folder
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise CannotWrite(f"{out} cannot be written ({error.strerror or error}); free some space, or name another folder") from error
    return Kept(out / root.relative_to(temporary), out / DROPPED)


def _check_classes(task: Task, dropped: Collection[int]) -> None:
    """Check that each class keeps a row; without one, the kept rows would be another task, with other classes.

    Raises:
        DataError: the first class that would keep none.
    """
    counts = [0] * task.train.num_classes
    rows = [(split, row) for split in (task.train, task.trusted, task.public) for row in zip(split.ids.tolist(), split.labels.tolist(), strict=True)]
    for _, (ident, label) in rows:
        counts[label] += ident not in dropped
    present = {label for _, (_, label) in rows}
    if empty := [label for label in sorted(present) if not counts[label]]:
        name = task.class_names[empty[0]] if task.class_names else str(empty[0])
        raise DataError(
            f"all rows of the class {name} are flagged, so {task.name} is not written without them; use a stricter filter, or remove the class yourself"
        )


def _check_free(path: Path) -> None:
    """Check that no file of the source takes the place of the list of dropped rows.

    Raises:
        DataError: one does.
    """
    if path.exists():
        raise DataError(f"the source is named {path.name}, and so is the list of dropped rows; rename the source")


def _write_dropped(task: Task, dropped: Mapping[int, str], path: Path) -> None:
    """Write the name, the label and the reason of each row that is left out.

    Raises:
        DataError: the source has a file of this name at this place.
    """
    _check_free(path)
    labels = dict(zip(task.train.ids.tolist(), task.train.labels.tolist(), strict=True))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["name", "label", "reason"])
        for ident, reason in sorted(dropped.items()):
            label = task.class_names[labels[ident]] if task.class_names else str(labels[ident])
            name = task.row_names[ident] if task.row_names else str(ident)
            writer.writerow([harmless(plain(cell)) for cell in (name, label, reason)])
