"""What the filters of an audit see: poison of several kinds in several tasks, and clean rows.

`python -m benchmarks._vetting clean DATA STORE` measures the table of clean rows that `audit` reads (seeds 100 and 101).
`python -m benchmarks._vetting sees DATA STORE` writes results/vetting.json: AUROC and named rows for each task and each kind of poison, on
fresh seeds, with a table of clean rows that does not contain the task.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from poisonbench.commands.audit import EPOCHS, SHARE, _line, suite_names
from poisonbench.config.setting import Setting
from poisonbench.core.defense import Finds, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.files import write_text
from poisonbench.core.short import finds, suited
from poisonbench.report.joint import CLEAN, CleanRows, Sketch, evidence, joined, strengths, task_of, told
from poisonbench.report.joint import clean_rows as shipped
from poisonbench.runner.check import check_training
from poisonbench.runner.experiment import assemble

HOME = Path(__file__).parent.parent
SEEDS, FRESH = (100, 101), (201,)
RATE = "threat.budget.rate=0.05"
POISON: Mapping[str, Sequence[str]] = {
    "random flips": ("attack=random_label", RATE),
    "badnets": ("attack=badnets", RATE),
    "blended": ("attack=blended", RATE),
    "word trigger": ("attack=word_trigger", RATE),
}
PICTURES, WORDS = ("badnets", "blended"), ("word trigger",)


class Task(NamedTuple):
    """A task of the measurement.

    Args:
        words: on the command line.
        poison: the kinds of poison that it is measured with.
    """

    words: tuple[str, ...]
    poison: tuple[str, ...]


def tasks(data: Path) -> dict[str, Task]:
    """Return the tasks by their names."""
    flips = ("random flips",)
    return {
        "digits": Task(("task=digits",), (*flips, *PICTURES)),
        "mnist": Task(("task=mnist", f"task.root={data / 'mnist'}", "task.limit=6000"), (*flips, *PICTURES)),
        "breast_cancer": Task(("task=breast_cancer",), flips),
        "wine": Task(("task=wine",), flips),
        "sms": Task(("task=sms", f"task.root={data / 'text' / 'sms_spam.tsv'}"), flips),
        "sentiment": Task(("task=sentiment",), (*flips, *WORDS)),
    }


class Judged(NamedTuple):
    """Verdicts of the filters on the rows of a run.

    Args:
        verdicts: of each filter.
        finds: what each filter looks for.
        labels: (N,).
        poison: (N,) bool.
    """

    verdicts: dict[str, Verdict]
    finds: dict[str, Finds]
    labels: Tensor
    poison: Tensor


def judged(words: Sequence[str], seed: int, store: str) -> Judged:
    """Run every filter of an audit that fits the rows of a run with an attack."""
    verdicts, found, task = dict[str, Verdict](), dict[str, Finds](), None
    for name in suite_names():
        setting = Setting.of([*words, f"seed={seed}", f"defense={name}", "task.trusted=0", f"results_dir={store}", "threads=1"])
        try:
            experiment = assemble(setting.tree, setting.store, task=task)
            task = experiment.task
            line = _line(experiment, setting.store, name, suited(experiment.defense.sanitize), EPOCHS)
            check_training(line)
        except (ConfigError, Incompatible):
            continue
        rows = line.strike()
        verdict = line.judge(rows)
        find = finds(experiment.defense.sanitize)
        assert verdict is not None, "the suite has filters alone"
        assert find is not None, "the suite has filters with FINDS alone"
        verdicts[name], found[name] = verdict, find
    return Judged(verdicts, found, rows.data.labels, rows.kinds.poison)


def measured_clean(data: Path, store: str) -> CleanRows:
    """Return the sketches of all clean tasks."""
    runs = {f"{name}/{seed}": judged([*task.words, "attack=none"], seed, store) for name, task in tasks(data).items() for seed in SEEDS}
    filters: dict[str, dict[str, Sketch]] = {}
    for run, found in runs.items():
        for name, verdict in found.verdicts.items():
            kept(filters, name, run, strengths(verdict.suspicion, found.labels, found.finds[name].scale))
    half, together = CleanRows(filters=filters, together={}), dict[str, dict[str, Sketch]]()
    for run, found in runs.items():
        shares = half.without(task_of(run)).shares(found.verdicts, found.finds, found.labels)  # a task does not judge itself
        for kind in {found.finds[name].kind for name in shares}:
            names = sorted(name for name in shares if found.finds[name].kind == kind)
            if len(names) > 1:
                kept(together, "+".join(names), run, evidence([shares[name] for name in names]))
    return CleanRows(filters=filters, together=together)


def kept(table: dict[str, dict[str, Sketch]], name: str, run: str, values: Tensor) -> None:
    """Add the sketch of a run to a table, unless all rows are equal: then the filter says nothing there."""
    sketch = Sketch.of(values)
    if len(sketch.reached) > 1:
        table.setdefault(name, {})[run] = sketch


def seen(data: Path, store: str) -> Iterator[dict[str, object]]:
    """Yield one mapping for each task, kind of poison and seed: AUROC of each filter and of the joint ranking, and how many rows are named."""
    from sklearn.metrics import roc_auc_score

    whole = shipped()
    for name, task in tasks(data).items():
        for what in ("none", *task.poison):
            for seed in FRESH:
                found = judged([*task.words, *POISON.get(what, ("attack=none",))], seed, store)
                clean = whole.without(name)
                shares = clean.shares(found.verdicts, found.finds, found.labels)
                share = joined(torch.stack([*clean.by_kind(shares, found.finds).values()]))
                named, poison = share <= SHARE, found.poison.numpy()
                line: dict[str, object] = {"task": name, "poison": what, "seed": seed, "rows": len(poison), "poisoned": int(poison.sum())}
                line |= {"named": int(named.sum()), "false_flags": round(float(named[~found.poison].double().mean()), 4)}
                if poison.any():
                    line["found"] = round(float(named[found.poison].double().mean()), 4)
                    line["joint"] = round(float(roc_auc_score(poison, -share)), 4)
                    line["filters"] = {key: round(float(roc_auc_score(poison, verdict.suspicion)), 4) for key, verdict in found.verdicts.items()}
                yield line


def main(words: Sequence[str]) -> int:
    """Measure one of both.

    Raises:
        ConfigError: other words.
    """
    if len(words) != 3 or words[0] not in ("clean", "sees"):
        raise ConfigError("python -m benchmarks._vetting clean|sees DATA STORE: DATA contains mnist and text, STORE keeps models and verdicts between runs")
    what, data, store = words[0], Path(words[1]), words[2]
    if what == "clean":
        write_text(CLEAN, json.dumps(told(measured_clean(data, store))) + "\n")
    else:
        write_text(HOME / "results" / "vetting.json", json.dumps(list(seen(data, store)), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
