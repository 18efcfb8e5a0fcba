"""The way of each row of a run: its source, its split, what the attacker did to it, and whether a filter removed it.

The file says which rows the attacker changed. That is ground truth, which a benchmark knows and no defender has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.core import manifest
from poisonbench.core.data import Dataset, Task
from poisonbench.core.defense import Defense
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import write_atomically
from poisonbench.runner.spec import name_of
from poisonbench.storage.record import Record

if TYPE_CHECKING:
    import pyarrow as pa

    from poisonbench.runner.experiment import Experiment
    from poisonbench.runner.pipeline import Trial

FORMAT = "2"
SPLITS = ("train", "trusted", "public", "test")
FILES = 20  # rows of a file that are told
BOTH = "The undefended and the defended victim were trained on it."
GIVEN = "It was given to the training of the defended victim by {}; what happened inside is not recorded."


@dataclass(eq=False)
class Lineage:
    """Collects the ways of all rows while a run shows them, and writes them once there is a record."""

    table: pa.Table | None = None

    def __call__(self, experiment: Experiment, trials: Sequence[Trial]) -> None:
        """Note the rows of all trials."""
        import pyarrow as pa

        task = experiment.task
        digests = {split: row_digests(getattr(task, split)) for split in SPLITS}
        parts = [_others(task, split, digests[split]) for split in SPLITS[1:]] + [_trained(task, trial, digests["train"]) for trial in trials]
        names = {"attack": name_of(experiment.attack), "filter": name_of(Defense(sanitize=experiment.defense.sanitize)), "task": task.name}
        names["training"] = name_of(Defense(train=experiment.defense.train))
        self.table = pa.Table.from_pylist([row for part in parts for row in part], schema=_schema()).replace_schema_metadata(names)

    def write(self, record: Record, results: Path) -> Path | None:
        """Write the ways of a record's rows below the folder of results, and return the path; None for a run that trained nothing."""
        import pyarrow.parquet as pq

        if self.table is None or record.status != "done":
            return None
        names = {**{name.decode(): value.decode() for name, value in self.table.schema.metadata.items()}}
        whole = self.table.replace_schema_metadata({**names, "format": FORMAT, "record": record.key, "result_digest": record.result_digest})
        path = results / "lineage" / f"{record.key}.parquet"
        write_atomically(path, lambda temporary: pq.write_table(whole, temporary, compression="zstd"))
        return path


def _schema() -> pa.Schema:
    """Return the columns of the file; those from `position` on are null for rows that the attacker could not reach."""
    import pyarrow as pa

    return pa.schema({
        "split": pa.string(),
        "id": pa.int64(),  # number of the row in its source; negative for rows that the attacker added
        "source": pa.string(),
        "client": pa.int64(),
        "label": pa.string(),
        "digest": pa.string(),
        "trial": pa.int64(),
        "position": pa.int64(),  # among the rows that the defender receives
        "received_label": pa.string(),
        "received_digest": pa.string(),
        "attack": pa.string(),  # "", "poison", "cover", or "untouched": counted against the budget, but a clean row
        "added": pa.bool_(),
        "suspicion": pa.float32(),
        "removed": pa.bool_(),
    })  # fmt: skip


def row_digests(data: Dataset) -> list[str]:
    """Return the digest of each row, as manifests and packs have it."""
    return [bytes(digest.tolist()).hex() for digest in manifest.row_digests(data)]


def _label(task: Task, label: int) -> str:
    return task.class_names[label] if label < len(task.class_names) else str(label)


def _source(task: Task, split: str, number: int) -> str:
    """Return where a row is from: the name that its source gives it, or the source and its number there."""
    names = task.test_names if split == "test" else task.row_names
    if 0 <= number < len(names):
        return names[number]
    return f"{task.name}, {'test row' if split == 'test' else 'row'} {number}"


def _others(task: Task, split: str, digests: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield the rows of a split that the attacker cannot reach."""
    rows: Dataset = getattr(task, split)
    for number, label, owner, digest in zip(rows.ids.tolist(), rows.labels.tolist(), rows.owners.tolist(), digests, strict=True):
        yield {"split": split, "id": number, "source": _source(task, split, number), "client": owner, "label": _label(task, label), "digest": digest}


def _trained(task: Task, trial: Trial, digests: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield the training rows as the defender received them in one trial."""
    received, kinds, verdict = trial.poisoned.data, trial.poisoned.kinds, trial.verdict
    clean = {number: place for place, number in enumerate(task.train.ids.tolist())}
    labels, owners = task.train.labels.tolist(), received.owners.tolist()
    touched = (trial.poisoned.mask | kinds.injected).nonzero()[:, 0]
    changed = dict(zip(touched.tolist(), row_digests(received.take(touched)), strict=True))
    for position, number in enumerate(trial.poisoned.clean_ids.tolist()):
        place = clean.get(number)
        yield {
            "split": "train",
            "id": number,
            "source": "added by the attacker" if place is None else _source(task, "train", number),
            "client": owners[position],
            "label": None if place is None else _label(task, labels[place]),
            "digest": None if place is None else digests[place],
            "trial": trial.number,
            "position": position,
            "received_label": _label(task, int(received.labels[position])),
            "received_digest": changed[position] if position in changed else digests[cast("int", place)],
            "attack": next((kind for kind in ("poison", "cover", "untouched") if getattr(kinds, kind)[position]), ""),
            "added": bool(kinds.injected[position]),
            "suspicion": None if verdict is None else float(verdict.suspicion[position]),
            "removed": False if verdict is None else not bool(verdict.keep[position]),
        }


def path_of(record: Path) -> Path:
    """Return where the lineage of a record in results_dir/records is."""
    return record.absolute().parent.parent / "lineage" / f"{record.stem}.parquet"


def read(path: Path, record: Record) -> pa.Table:
    """Read the lineage of a record.

    Raises:
        ConfigError: there is none.
        DataError: a file that is no lineage, or that of another record.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ConfigError(f"the record {record.key} has no lineage at {path}; run its command again with lineage=true: {record.command} lineage=true")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no lineage ({error})") from error
    told = {name.decode(): value.decode(errors="replace") for name, value in (table.schema.metadata or {}).items()}
    if told.get("format") != FORMAT or not table.schema.equals(_schema()):
        raise DataError(f"{path} is no lineage of this version of poisonbench; run the record's command again with lineage=true")
    if (told["record"], told["result_digest"]) != (record.key, record.result_digest):
        raise DataError(f"{path} was written for another run than the record {record.key}; run the record's command again with lineage=true")
    return table


def row_named(table: pa.Table, word: str) -> list[dict[str, object]]:
    """Return the entries of a row: ID is its number in the source; test/ID is a test row, and a negative ID a row that the attacker added.

    Raises:
        ConfigError: no such row.
    """
    import pyarrow.compute as pc

    split, _, number = word.rpartition("/")
    if split not in ("", "test") or not re.fullmatch("-?[0-9]{1,18}", number):
        raise ConfigError(f"row={word}: give the number of a training row in its source, or test/NUMBER for a test row")
    is_test = pc.equal(table["split"], "test")
    found = table.filter(pc.and_(pc.equal(table["id"], int(number)), is_test if split else pc.invert(is_test))).to_pylist()
    if not found:
        raise ConfigError(f"row={word}: no such row in this run; options such as task.limit and task.classes leave rows of the source out")
    return cast("list[dict[str, object]]", found)


def rows_of_file(table: pa.Table, name: str) -> list[dict[str, object]]:
    """Return the entries of the rows of a file: of exactly this name, or else of the names that end in it.

    Raises:
        ConfigError: no such file, or a name that fits several.
    """
    import pyarrow.compute as pc

    found = table.filter(pc.equal(table["source"], name)).to_pylist()
    if not found:
        found = table.filter(pc.ends_with(table["source"], f"/{name}")).to_pylist()
        names = sorted({row["source"] for row in found})
        if len(names) > 1:
            raise ConfigError(f"file={name}: {len(names)} files have this name, {names[0]} and {names[1]} among them; give more of the path")
    if not found:
        example = table["source"][0].as_py() if len(table) else "nothing"
        raise ConfigError(f"file={name}: no row of this run has this source; the first is {example}")
    return cast("list[dict[str, object]]", found)


def told(table: pa.Table, rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Yield the ways of rows in plain sentences."""
    names = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    ways: dict[tuple[object, object], list[Mapping[str, object]]] = {}
    for row in rows:
        ways.setdefault((row["split"], row["id"]), []).append(row)
    for (split, number), entries in [*ways.items()][:FILES]:
        first = entries[0]
        yield f"{split} row {number}: {first['source']}"
        if first["label"] is not None:
            yield f"  In the source its label is {first['label']}, and its digest {first['digest']}."
        yield from (f"  {line}" for line in (_apart(str(split)) if first["trial"] is None else _ways(table, entries, names)))
    if len(ways) > FILES:
        yield f"... and {len(ways) - FILES} more rows"
    yield "What the attacker did is ground truth of the benchmark; a defender does not know it."


def _apart(split: str) -> tuple[str]:
    why = {
        "trusted": "It is a trusted row of the defender, not one of the training rows: the attacker cannot change it.",
        "public": "It is a public row, not one of the training rows: the attacker cannot change it.",
        "test": "It is a test row, not one of the training rows: figures are measured on it.",
    }
    return (why[split],)


def _ways(table: pa.Table, entries: Sequence[Mapping[str, object]], names: Mapping[str, str]) -> Iterator[str]:
    for row in entries:
        head = f"Trial {row['trial']}: " if len(entries) > 1 or row["trial"] else ""
        yield head + " ".join((*_attacked(row, names["attack"]), *_filtered(table, row, names)))


def _attacked(row: Mapping[str, object], attack: str) -> Iterator[str]:
    why = {"poison": "it is poison", "cover": "it only hides the poison", "untouched": "it counts against the budget, but it is a clean row"}
    if row["added"]:
        yield f"The attack {attack} added it; {why[str(row['attack'])]}."
    elif row["attack"] in ("poison", "cover"):
        yield f"The attack {attack} changed it; {why[str(row['attack'])]}."
    else:
        yield "The attacker did not change it."
    if row["received_digest"] != row["digest"]:
        yield f"The defender received it with the label {row['received_label']} and the digest {row['received_digest']}."


def _filtered(table: pa.Table, row: Mapping[str, object], names: Mapping[str, str]) -> Iterator[str]:
    import pyarrow.compute as pc

    training = names.get("training", "none")
    both = BOTH if training == "none" else f"The undefended victim was trained on it. {GIVEN.format(training)}"

    if row["suspicion"] is None:
        yield f"No filter judged it. {both}"
        return
    trial = table.filter(pc.equal(table["trial"], row["trial"]))
    rank = 1 + (pc.sum(pc.greater(trial["suspicion"], row["suspicion"])).as_py() or 0)
    yield f"The filter {names['filter']} {'removed' if row['removed'] else 'kept'} it (suspicion {row['suspicion']:.4g}, place {rank} of {len(trial)})."
    yield "The undefended victim was trained on it, the defended one was not." if row["removed"] else both
