"""`export RECORD [FOLDER]`: write poisoned rows as files for other tools; `task=poisoned task.root=FOLDER` reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from poisonbench import terminal
from poisonbench.commands.usage import RESULTS_DIR, TRUST, Usage
from poisonbench.config.rerun import runtime_of, setting_from, split
from poisonbench.core.errors import ConfigError
from poisonbench.core.files import file_digest, write_text
from poisonbench.core.progress import heard
from poisonbench.storage.record import read

FORMAT = 5
# since 2 the folder has the trusted and the public rows, since 3 the kind of each row: poison, cover, injected; since 4 the form of each column;
# since 5 the columns of each split, and the candidate answers of questions

USAGE = Usage(
    call="export RECORD [FOLDER]",
    does="Write the poisoned training rows of a record and the undefended victim's weights, for other tools; `task=poisoned task.root=FOLDER` reads them.",
    options={"RECORD": "path of a record", "FOLDER": "where to write; a folder of the record's name by default", **RESULTS_DIR, **TRUST},
)


def main(words: Sequence[str]) -> int:
    """Write the rows of a record's first trial, the kind of each, the test, trusted and public rows, and the undefended victim's weights.

    They are read from the store in `results_dir`, and computed again if they are missing there.

    Raises:
        ConfigError: wrong words, a record that poisons no rows, or a record whose model has another C-Acc on this machine.
    """
    allowed, words = split(words)
    local = [word for word in words if word.startswith("results_dir=")]
    named = [word for word in words if word not in local]
    if not 1 <= len(named) <= 2:
        raise ConfigError("export RECORD [FOLDER] [results_dir=PATH] [trust=PREFIX.]: give the path of one record, and optionally the folder to write into")
    from poisonbench.core.ask import Candidates
    from poisonbench.core.defense import Mean
    from poisonbench.runner.experiment import assemble
    from poisonbench.runner.measure import measure
    from poisonbench.runner.stages import Line
    from poisonbench.storage.freeze import freeze
    from poisonbench.storage.store import write_tensors

    source = Path(named[0])
    folder = Path(named[1]) if len(named) == 2 else Path(source.stem)
    record = read(source)
    setting = setting_from(record, allowed, *local, *runtime_of(record))
    experiment = assemble(setting.tree, setting.store)
    line = Line(experiment=experiment, store=setting.store)
    with terminal.progress(Console()) as (listen, handler), heard(listen, handler):
        poisoned = line.strike()
        if not poisoned.mask.any():
            raise ConfigError(f"{source} poisons no rows; choose a record of an attack on data")
        victim = line.fit(line.attacked, poisoned.data, line.combine(Mean()), label="undefended")
        before, now = record.undefended.get("c_acc"), measure(line, victim, line.probe(poisoned), "undefended")["c_acc"]
    if experiment.threat.trials == 1 and before != now:
        reason = "another processor or another torch rounds differently; export it where it was made, or run its command here and export that record"
        raise ConfigError(f"{source}: the C-Acc of the undefended model is {before} in the record and {now} on this machine: {reason}")
    task, test = experiment.task, experiment.task.test
    splits = {"train": poisoned.data, "test": test, "trusted": task.trusted, "public": task.public}
    files = {
        "train": poisoned.data.columns,
        **{
            name: {"inputs": rows.inputs, "labels": rows.labels, **rows.extra} for name, rows in splits.items() if name != "train" and (len(rows) or rows.extra)
        },
        **({"answers": {"table": test.ask.table, "of": test.ask.of}} if isinstance(test.ask, Candidates) else {}),
        "mask": {"mask": poisoned.kinds.poison, "cover": poisoned.kinds.cover, "injected": poisoned.kinds.injected},
        "victim": dict(victim.state()),
    }
    for name, columns in files.items():
        tensors = {key: column.contiguous() for key, column in columns.items()}
        write_tensors(folder / f"{name}.safetensors", tensors)
    description = {
        "format": FORMAT,
        "name": task.name,
        "columns": {name: {column: freeze(rows.schema[column], {}) for column in ("inputs", *rows.extra)} for name, rows in splits.items()},
        "class_names": list(task.class_names) or [str(label) for label in range(task.train.num_classes)],
        "record": record.key,
        "command": record.command,
        "sha256": {name: file_digest(folder / f"{name}.safetensors") for name in files},
    }
    write_text(folder / "task.json", json.dumps(description, indent=1) + "\n")
    poison, cover = int(poisoned.kinds.poison.sum()), int(poisoned.kinds.cover.sum())
    kinds = f"{poison} of them poisoned" + (f", {cover} more that only hide the poison (cover)" if cover else "")
    Console().print(f"{folder}: {len(poisoned.data)} rows, {kinds}", markup=False, highlight=False, soft_wrap=True)
    return 0
