"""Records: one JSON file per run, with its settings, its results, its cost and its machine. Imports no torch."""

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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal, cast, get_args

from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded, write_text
from poisonbench.core.plugins import HOME
from poisonbench.core.trees import value_at

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
        spec: the specification of the run: attack, defense, task, net, learner, threat, seed.
        status: "done", "skipped" (its parts cannot be combined) or "failed".
        reason: why it was skipped or failed.
        command: the command that repeats the run.
        metrics: the defended victim's figures.
        undefended: the same without the defense.
        baseline: the same probe on a victim trained on clean rows.
        counts: absolute numbers behind the fractions.
        curves: figures over rounds or epochs.
        facts: what trainings report about themselves.
        keys: names of the poison and the victims in the store.
        cost: seconds per stage and peak memory.
        provenance: digests, versions, device, threads, commit.
        assumed: what the defense assumes about the attack, and where the values come from.
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
        """Name of the file: a digest of the specification and the kind of device."""
        return _digest(_asked(self))[:16]

    @cached_property
    def result_digest(self) -> str:
        """SHA-256 of all fields except command, cost and provenance: two runs with the same digest have equal results, bit for bit."""
        return _digest(self._results())

    def _results(self) -> dict[str, object]:
        apart = ("cost", "provenance", "command", *(LATER if self.schema < SCHEMA else ()))
        return {name: getattr(self, name) for name in FIELDS if name not in apart}

    @property
    def unseen(self) -> tuple[str, ...]:
        """Checks of schema 2 that were not made for this record, one sentence each; empty for a record of schema 2."""
        if self.schema >= SCHEMA or self.status != "done":
            return ()
        return tuple(sentence for sentence, concerns in UNSEEN if concerns(self))

    def goal(self, part: Part) -> Mapping[str, object]:
        """Return the figures that the attacker's goal adds to a part of the record; in schema 1 they are not separate."""
        figures: Mapping[str, object] = getattr(self, part)
        own = figures.get("goal") or {}
        return {name: figures[name] for name in GOALS if name in figures} if self.schema < SCHEMA else cast("Mapping[str, object]", own)

    def write(self, folder: Path) -> Path:
        """Write the record into `folder`, completely or not at all, and return its path."""
        written = {name: value for name, value in dataclasses.asdict(self).items() if self.schema >= SCHEMA or name not in LATER}
        whole = {"schema": self.schema, **written, "result_digest": self.result_digest}
        path = folder / f"{self.key}.json"
        write_text(path, json.dumps(_finite(whole), indent=1, allow_nan=False) + "\n")
        return path


FIELDS = tuple(each.name for each in dataclasses.fields(Record))


def read(path: Path) -> Record:
    """Read a record and check it against its own digest.

    Raises:
        DataError: no such file, not a record, or a record that was changed after it was written.
    """
    try:
        whole = json.loads(bounded(path.read_text(encoding="utf-8")))
        schema, digest = whole.pop("schema"), whole.pop("result_digest")
        if type(schema) is not int or schema not in (1, SCHEMA):
            raise TypeError(f"it has schema {schema}; this version reads 1 and {SCHEMA}")
        if schema < SCHEMA and set(LATER) & whole.keys():
            raise TypeError(f"it has schema {schema}, but fields of schema {SCHEMA}")
        record = Record(**whole, schema=schema)
        wrong = [name for name, value in whole.items() if not isinstance(value, str if name in ("status", "reason", "command") else dict)]
        wrong += [] if wrong else [name for name, (parts, fits) in CHECKS.items() if not fits(value_at(whole, parts))]
        if wrong:
            raise TypeError(f"the fields {', '.join(wrong)} have the wrong form")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a record of poisonbench ({type(error).__name__}: {error})") from error
    if _digest_of_json(record._results()) != digest:
        raise DataError(f"{path} does not match its own digest: it was changed after it was written; run its command again, or restore the file")
    vars(record).update(result_digest=digest, key=_digest_of_json(_asked(record))[:16])
    return record


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


FORM: Mapping[str, Callable[[object], bool]] = {  # what readers of a record may rely on
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
    **{f"metrics.{name}": _maybe(_counted) for name in ("collective", "never")},
    "metrics.changed_rows": _maybe(_mapped(_number)),
    "counts": _mapped(_count),
    "keys": _mapped(_text),
    "curves": _mapped(_mapped(_listed(_figure))),
    "cost.seconds": _maybe(_mapped(_figure)),
}


CHECKS = {name: (name.split("."), fits) for name, fits in FORM.items()}
GOALS = ("c_acc_lost", "epsilon_lower", "canaries_right")  # figures of the goals that existed under schema 1
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
    """Return the SHA-256 of a value as JSON with sorted keys; numbers that JSON does not have, such as nan, become text."""
    try:
        text = IN_ORDER.encode(value)
    except ValueError:
        text = IN_ORDER.encode(_finite(value))
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(value: object) -> object:
    """Return a value with nan and infinities as text, and tuples as lists."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict | Mapping):  # `dict` first: the check for `Mapping` is slower
        return {str(name): _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def words_in(command: str) -> list[str]:
    """Return the words of a command; if quotes do not close, which our commands never have, it is split at spaces."""
    return [*_words_in(command)]


@lru_cache(maxsize=4096)  # a report splits the command of each record ten times, at 0.1 ms
def _words_in(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:
        return tuple(command.split())


def provenance() -> dict[str, object]:
    """Return versions, machine and commit; `dirty` ignores `results/`, which runs write."""
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
    """Return the commit, and whether files differ from it; cached for a second, because it starts two processes of 10 ms."""
    return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--", ":!results"))


@cache
def processor() -> str:
    """Return the name of this machine's processor: arithmetic kernels are chosen by it, and round differently."""
    try:
        fields = dict(re.findall(r"^(vendor_id|cpu family|model|model name)\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE))
    except OSError:
        fields = {}
    if not fields:
        return platform.processor() or platform.machine()
    return f"{fields.get('model name', fields.get('vendor_id', ''))}, family {fields.get('cpu family', '')} model {fields.get('model', '')}"


def _git(*words: str) -> str:
    if not (HOME / "pyproject.toml").is_file():
        return ""  # an installed copy may be inside another project's repository
    try:
        done = subprocess.run(["git", "-C", str(HOME), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
