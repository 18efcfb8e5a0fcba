"""One JSON file a run: what was asked, what came out, what it cost, where it ran. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
import shlex
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal, cast, get_args

from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded, write_text
from poisonbench.core.plugins import HOME

SCHEMA = 2
LATER = ("schema", "assumed")  # fields that records of schema 1 do not have
IN_ORDER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
Status = Literal["done", "skipped", "failed"]
Part = Literal["metrics", "undefended", "baseline"]
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "hydra-core", "opacus")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, as it is written to disk.

    Args:
        spec: what was asked: attack, defense, task, net, learner, threat, seed.
        status: "done", "skipped" (the learner cannot honour a slot) or "failed".
        reason: why it was skipped or failed.
        command: what repeats it.
        metrics: the defended victim's figures.
        undefended: the same without the defense.
        baseline: the same probe on a victim trained on clean rows.
        counts: absolute numbers behind the fractions.
        curves: figures over rounds or epochs.
        facts: what trainings found out about themselves.
        keys: where the poison and the victims lie in the store.
        cost: seconds a stage and peak memory.
        provenance: digests, versions, device, threads, commit.
        assumed: what the defense takes for granted about the attack, and where that comes from.
        schema: 2; records of schema 1 were made before the referee checked goals, injected rows and every column (`unseen`).
    """

    spec: Mapping[str, object]
    status: Status = "done"
    reason: str = ""
    command: str = ""
    metrics: Mapping[str, object] = field(default_factory=dict)
    undefended: Mapping[str, object] = field(default_factory=dict)
    baseline: Mapping[str, object] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, object] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    assumed: Mapping[str, object] = field(default_factory=dict)
    schema: int = SCHEMA

    @cached_property
    def key(self) -> str:
        """Name of the file: what was asked and on which kind of device."""
        return _digest(_asked(self))[:16]

    @cached_property
    def result_digest(self) -> str:
        """SHA-256 of all but cost and provenance: two runs with this digest in common agree to the bit."""
        return _digest(self._told())

    def _told(self) -> dict[str, object]:
        apart = ("cost", "provenance", "command", *(LATER if self.schema < SCHEMA else ()))
        return {name: getattr(self, name) for name in FIELDS if name not in apart}

    @property
    def unseen(self) -> tuple[str, ...]:
        """Which checks of schema 2 were not made for this record, one sentence each; none for a record of schema 2."""
        if self.schema >= SCHEMA or self.status != "done":
            return ()
        return tuple(sentence for sentence, there in UNSEEN if there(self))

    def goal(self, part: Part) -> Mapping[str, object]:
        """Return the figures that the attacker's goal adds to a part of the record; schema 1 had them among all others."""
        figures: Mapping[str, object] = getattr(self, part)
        own = figures.get("goal") or {}
        return {name: figures[name] for name in GOALS if name in figures} if self.schema < SCHEMA else cast("Mapping[str, object]", own)

    def write(self, folder: Path) -> Path:
        """Write the record into `folder`, whole or not at all, and return where it lies."""
        written = {name: value for name, value in dataclasses.asdict(self).items() if self.schema >= SCHEMA or name not in LATER}
        whole = {"schema": self.schema, **written, "result_digest": self.result_digest}
        path = folder / f"{self.key}.json"
        write_text(path, json.dumps(_finite(whole), indent=1, allow_nan=False) + "\n")
        return path


FIELDS = tuple(each.name for each in dataclasses.fields(Record))


def read(path: Path) -> Record:
    """Read a record and check it against its own digest.

    Raises:
        DataError: no such file, no record, or one that was changed by hand.
    """
    try:
        whole = json.loads(bounded(path.read_text(encoding="utf-8")))
        schema, digest = whole.pop("schema"), whole.pop("result_digest")
        if type(schema) is not int or schema not in (1, SCHEMA):
            raise TypeError(f"it has schema {schema}; this version reads 1 and {SCHEMA}")
        if schema < SCHEMA and set(LATER) & whole.keys():
            raise TypeError(f"fields of schema {SCHEMA} under schema {schema}")
        record = Record(**whole, schema=schema)
        wrong = [name for name, value in whole.items() if not isinstance(value, str if name in ("status", "reason", "command") else dict)]
        wrong += [] if wrong else [name for name, (parts, fits) in CHECKS.items() if not fits(_found(whole, parts))]
        if wrong:
            raise TypeError(f"{', '.join(wrong)} of another form")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a record of poisonbench ({type(error).__name__}: {error})") from error
    if _digest_of_json(record._told()) != digest:
        raise DataError(f"{path} does not agree with its own digest; it was changed after it was written")
    vars(record).update(result_digest=digest, key=_digest_of_json(_asked(record))[:16])
    return record


def _found(node: object, parts: Sequence[str]) -> object:
    for part in parts:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _text(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _count(value: object) -> bool:
    return _number(value) and isinstance(value, int) and value >= 0


def _figure(value: object) -> bool:
    return _number(value) or value in ("nan", "inf", "-inf")  # JSON has no number for these


def _maybe(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


def _listed(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


def _pair(value: object) -> bool:
    return _listed(_number)(value) and len(cast("list[float]", value)) == 2


def _mapped(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(fits, value.values()))


def _counted(value: object) -> bool:
    return _mapped(_figure)(value) and all(re.fullmatch("[0-9]{1,9}", str(name)) for name in cast("Mapping[str, object]", value))


FORM: Mapping[str, Callable[[object], bool]] = {  # what whoever reads a record may rely on
    "status": lambda value: value in get_args(Status),
    "spec.seed": _count,
    **{f"spec.{part}.name": _text for part in ("task", "attack", "defense")},
    "spec.task.rows.train": _count,
    "spec.threat.budget.rate": _figure,
    "spec.threat.budget.count": _maybe(_count),
    **{f"{part}.{name}": _maybe(_figure) for part in ("metrics", "undefended", "baseline") for name in ("c_acc", "asr", "r_acc")},
    **{f"{part}.asr_interval": _maybe(_pair) for part in ("metrics", "undefended", "baseline")},
    **{f"{part}.goal": _maybe(_mapped(_figure)) for part in ("metrics", "undefended", "baseline")},
    "metrics.certified": _maybe(_listed(_number)),
    **{f"metrics.{name}": _maybe(_mapped(_figure)) for name in ("screen", "repair")},
    "metrics.collective": _maybe(_counted),
    "metrics.changed_rows": _maybe(_mapped(_number)),
    "counts": _mapped(_count),
    "keys": _mapped(_text),
    "curves": _mapped(_mapped(_listed(_figure))),
    "cost.seconds": _maybe(_mapped(_figure)),
}


CHECKS = {name: (name.split("."), fits) for name, fits in FORM.items()}
GOALS = ("c_acc_lost", "epsilon_lower", "canaries_right")  # of the goals that there were under schema 1
UNSEEN: tuple[tuple[str, Callable[[Record], bool]], ...] = (
    ("ASR and R-Acc: it was not checked that the probed rows and their right answers are those of the task", lambda record: "asr" in record.metrics),
    ("TPR and AUROC: every row that the attacker named counted as poison, also one that was not changed", lambda record: "tpr" in record.metrics),
    ("figures under an aggregation rule: the rule was given the malicious clients before all others", lambda record: "clients" in record.counts),
    ("radii: the record does not say which kind of change they count", lambda record: "certified" in record.metrics and "radius_unit" not in record.metrics),
    ("all figures: it was not checked whether a row stands in two splits, such as training and test", lambda record: True),
)


def _asked(record: Record) -> dict[str, object]:
    return {"spec": record.spec, "device": record.provenance.get("device", "")}


def _digest(value: object) -> str:
    return _digest_of_json(_finite(value))


def _digest_of_json(value: object) -> str:
    """Return the SHA-256 of what JSON may hold, keys in order; a number that JSON does not have counts as its text."""
    try:
        text = IN_ORDER.encode(value)
    except ValueError:
        text = IN_ORDER.encode(_finite(value))
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(value: object) -> object:
    """Write what JSON has no number for as text, and tuples as lists."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict | Mapping):  # a look at `dict` spares the slower one at `Mapping`
        return {str(name): _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def words_in(command: str) -> list[str]:
    """Return the words of a command; cut at blanks where quotes do not close, which no command of ours has."""
    return [*_words_in(command)]


@lru_cache(maxsize=4096)  # a report asks ten times for the words of each record, at 0.1 ms
def _words_in(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:
        return tuple(command.split())


def provenance() -> dict[str, object]:
    """Return versions and the commit; `dirty` ignores `results/`, which runs themselves write."""
    commit, dirty = _commit(int(time.monotonic()))
    return {"versions": {**_versions()}, "commit": commit, "dirty": dirty, "machine": platform.machine(), "processor": processor()}


@cache
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("poisonbench", *PACKAGES):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = version() if package == "poisonbench" else metadata.version(package)
    return versions


@cache
def version() -> str:
    """Return the version of poisonbench: that of the clone it runs from, or else that of the installed package."""
    with suppress(OSError):
        project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "poisonbench":
            return str(project["version"])  # what pip noted when it installed the clone may be older
    return metadata.version("poisonbench")


@lru_cache(maxsize=1)
def _commit(second: int) -> tuple[str, bool]:
    """Return the commit, and whether files differ from it; asked once in a second, as it takes two processes of 10 ms."""
    return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--", ":!results"))


@cache
def processor() -> str:
    """Name this machine's processor: its arithmetic kernels are picked by kind, and round differently."""
    try:
        told = dict(re.findall(r"^(vendor_id|cpu family|model|model name)\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE))
    except OSError:
        told = {}
    if not told:
        return platform.processor() or platform.machine()
    return f"{told.get('model name', told.get('vendor_id', ''))}, family {told.get('cpu family', '')} model {told.get('model', '')}"


def _git(*words: str) -> str:
    if not (HOME / "pyproject.toml").is_file():
        return ""  # an installed copy may lie inside somebody else's repository
    try:
        done = subprocess.run(["git", "-C", str(HOME), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
