"""`pack SOURCE FOLDER`: write the poison of a record, or poison that other projects publish, as a pack; `attack=pack attack.data.path=FOLDER` uses it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from poisonbench import terminal
from poisonbench.commands.described import option
from poisonbench.commands.usage import RESULTS_DIR, TRUST, Usage
from poisonbench.config.rerun import runtime_of, setting_from, split
from poisonbench.config.setting import Setting
from poisonbench.config.vocabulary import options
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import heard
from poisonbench.storage.record import read, words_in

if TYPE_CHECKING:
    from poisonbench.packs import Pack

TARGET = "target="
USAGE = Usage(
    call="pack RECORD FOLDER, or pack POISON FOLDER task=NAME [task.KEY=VALUE...] [target=LABEL]",
    does=(
        "Write poison as a pack: two files that `attack=pack attack.data.path=FOLDER` runs against any defense. RECORD is a record of an attack on rows; the "
        "pack contains the poison of its first trial. POISON is a folder of another project: poisons.pickle, base_indices.pickle and target.pickle of the "
        "poisoning benchmark, which are read without unpickling, or bd_train_dataset/ and bd_test_dataset/ of BackdoorBench, or "
        "poison.npz with the arrays x, y, indices, x_test, y_test and indices_test, as users of ART save them."
    ),
    options={
        "RECORD": "path of a record",
        "POISON": "a folder with the poison of another project",
        "FOLDER": "where to write",
        "task=NAME": "the task whose rows were poisoned, for a folder of another project",
        "target=LABEL": "the target label, for pictures of BackdoorBench, which do not contain it",
        **RESULTS_DIR,
        **TRUST,
    },
)


def main(words: Sequence[str]) -> int:
    """Write a pack.

    Raises:
        ConfigError: wrong words, or a record that poisons no rows.
        DataError: poison that cannot be read, or that is not for this task.
    """
    allowed, words = split(words)
    named = [word for word in words if "=" not in word]
    if len(named) != 2:
        raise ConfigError(f"{USAGE.call}: give a record or a folder of poison, and the folder to write into; `pack --help` explains every word")
    source, folder = Path(named[0]), Path(named[1])
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder to write into")
    rest = [word for word in words if word not in named]
    pack, advice = _of_folder(source, [*allowed, *rest]) if source.is_dir() else _of_record(source, allowed, rest)
    from poisonbench.packs import write

    write(pack, folder)
    count = f"{len(pack)} poisoned rows, judged on {'all test rows' if pack.degrade else f'{len(pack.probed)} test rows'}"
    for line in (f"{folder}: {count}", f"use it: python -m poisonbench attack=pack attack.data.path={folder} {advice}".rstrip()):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _of_record(source: Path, allowed: Sequence[str], words: Sequence[str]) -> tuple[Pack, str]:
    """Return the pack of a record's first trial, and words that run it under the same threat."""
    if strange := [word for word in words if not word.startswith("results_dir=")]:
        raise ConfigError(f"{strange[0]}: a record names its own task; leave this word out")
    from poisonbench.packs import pack_of
    from poisonbench.runner.experiment import assemble
    from poisonbench.runner.stages import Line

    record = read(source)
    setting = setting_from(record, allowed, *words, *runtime_of(record))
    experiment = assemble(setting.tree, setting.store)
    line = Line(experiment=experiment, store=setting.store)
    with terminal.progress(Console()) as (listen, handler), heard(listen, handler):
        poisoned = line.struck()
        probe = line.probe(line.strike())
    if not poisoned.mask.any():
        raise ConfigError(f"{source} poisons no rows; choose a record of an attack on data")
    pack = pack_of(
        experiment.task.train, poisoned, probe, experiment.task.test, {"record": record.key, "command": record.command, "task": experiment.task.name}
    )
    several = [] if experiment.threat.trials == 1 else ["threat.trials=1"]
    kept = [word for word in without_plugins(words_in(record.command)[3:]) if not (several and word.startswith("threat.trials="))]
    return pack, shlex.join([*kept, *several])


def without_plugins(words: Sequence[str]) -> list[str]:
    """Return the words of a command without its attack and its defense, but with the options and keys that the attack brings along."""
    attacks = [word.removeprefix("attack=") for word in words if word.startswith("attack=") and "[" not in word]
    found = option("attack", attacks[-1]) if attacks and attacks[-1] in options("attack") else None
    brought = [] if found is None else [f"{group}={choice}" for group, choice in found.brings.items()]
    brought += [] if found is None else [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in found.sets.items()]
    return [*brought, *(word for word in words if not word.lstrip("+~").startswith(("attack", "defense", "results_dir")))]


def _of_folder(source: Path, words: Sequence[str]) -> tuple[Pack, str]:
    """Return the pack of a folder of another project, and words that run it."""
    from poisonbench.published import published
    from poisonbench.runner.experiment import assemble

    targets, words = [word for word in words if word.startswith(TARGET)], [word for word in words if not word.startswith(TARGET)]
    if not any(word.startswith("task=") for word in words):
        raise ConfigError(f"{source} contains poison of another project; name the task whose rows were poisoned with task=NAME, such as task=cifar10")
    if plugins := [word for word in words if word.lstrip("+~").startswith(("attack", "defense"))]:
        raise ConfigError(f"{plugins[0]}: a pack of published poison has neither attack nor defense; give this word to the run that uses the pack")
    label = targets[-1].removeprefix(TARGET) if targets else None
    if label is not None and not (label.isascii() and label.isdigit() and len(label) < 19):
        raise ConfigError(f"target={label}: give the number of a class")
    whole = [f"task.{share}=0" for share in ("trusted", "public") if not any(word.startswith(f"task.{share}=") for word in words)]
    setting = Setting.of([*words, *whole, "attack=none"])
    task = assemble(setting.tree, setting.store).task
    pack = published(source, task, None if label is None else int(label))
    aims = [f"threat.target_ids=[{','.join(map(str, pack.probed[pack.aimed].tolist()))}]"] if pack.aimed.any() else []
    return pack, shlex.join([*words, *whole, f"threat.budget.count={len(pack)}", *aims])
