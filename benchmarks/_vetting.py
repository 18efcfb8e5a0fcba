"""What the filters of an audit see: poison of several kinds in several tasks, and clean rows.

`python -m benchmarks._vetting clean DATA STORE [TASK...]` measures the table of clean rows that `audit` reads (seeds 100 and 101); with names of
tasks, only these, and the rest of the table stays.
`python -m benchmarks._vetting sees DATA STORE` writes results/vetting.json: AUROC and named rows for each task and each kind of poison, on
fresh seeds, with a table of clean rows that does not contain the task.
`python -m benchmarks._vetting kinds DATA STORE FILE SEED...` writes FILE, in the same form: one kind of poison after the other, each with the filter
that ranks it first. `python -m benchmarks._vetting table FILE` prints it.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from benchmarks.hashes import lighter
from poisonbench.commands.audit import EPOCHS, SHARE, _line, suite_names
from poisonbench.config.setting import Setting
from poisonbench.core.data import Dataset
from poisonbench.core.data import Task as Rows
from poisonbench.core.defense import Finds, Kind, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.files import write_text
from poisonbench.core.rng import Key
from poisonbench.core.short import finds, suited
from poisonbench.report.joint import CLEAN, CleanRows, Sketch, evidence, strengths, task_of, told
from poisonbench.report.joint import clean_rows as shipped
from poisonbench.report.vetting import Vetted
from poisonbench.runner.check import check_training
from poisonbench.runner.experiment import assemble

HOME = Path(__file__).parent.parent
SEEDS, FRESH = (100, 101), (201,)
RATE = "threat.budget.rate=0.05"
SHARED = 0.05  # of the rows: planted copies, swapped captions
Plant: TypeAlias = Callable[[Dataset, Key], tuple[Dataset, Tensor]]  # from clean rows to rows with poison, and which rows these are, (N,) bool


def exact_copies(rows: Dataset, key: Key) -> tuple[Dataset, Tensor]:
    """Append copies of 5 % of the rows."""
    return _appended(rows, rows.take(_drawn(rows, key)))


def near_copies(rows: Dataset, key: Key) -> tuple[Dataset, Tensor]:
    """Append changed copies of 5 % of the rows: pictures with 10 % more light, texts without their last word."""
    some = rows.take(_drawn(rows, key))
    inputs = some.inputs.clone()
    if rows.form.picture(inputs[0]) is not None:
        inputs = lighter(inputs)
    else:
        inputs[torch.arange(len(inputs)), (inputs != 0).sum(1) - 1] = 0
    return _appended(rows, some.with_columns(some.columns | {"inputs": inputs}))


def swapped_captions(rows: Dataset, key: Key) -> tuple[Dataset, Tensor]:
    """Give 5 % of the rows the caption of a row of the next class, and the label that this caption names."""
    chosen = _drawn(rows, key)
    wished = (rows.labels[chosen] + 1) % rows.num_classes
    source = torch.stack([(rows.labels == label).nonzero()[:, 0][place % int((rows.labels == label).sum())] for place, label in enumerate(wished.tolist())])
    poison = torch.zeros(len(rows), dtype=torch.bool)
    poison[chosen] = True
    return rows.edit(chosen, labels=rows.labels[source], caption=rows.extra["caption"][source]), poison


def _drawn(rows: Dataset, key: Key) -> Tensor:
    return key.pick(torch.arange(len(rows)), round(SHARED * len(rows)))


def _appended(rows: Dataset, copies: Dataset) -> tuple[Dataset, Tensor]:
    behind = copies.with_columns(copies.columns | {"ids": torch.arange(len(copies)) + int(rows.ids.max()) + 1})
    return rows.append(behind), torch.arange(len(rows) + len(copies)) >= len(rows)


class Poison(NamedTuple):
    """A kind of poison.

    Args:
        words: that name an attack.
        plant: what poisons the rows before the run; None: the attack alone.
    """

    words: tuple[str, ...]
    plant: Plant | None = None


NOTHING = ("attack=none",)
POISON: Mapping[str, Poison] = {
    "none": Poison(NOTHING),
    "random flips": Poison(("attack=random_label", RATE)),
    "flips between two classes": Poison(("attack=label_flip", RATE)),
    "badnets": Poison(("attack=badnets", RATE)),
    "blended": Poison(("attack=blended", RATE)),
    "sig": Poison(("attack=sig", RATE)),
    "word trigger": Poison(("attack=word_trigger", RATE)),
    "exact copies": Poison(NOTHING, exact_copies),
    "near copies": Poison(NOTHING, near_copies),
    "replaced pictures": Poison(("attack=webscale", "threat.reach.money=1000")),  # every domain that is for sale
    "swapped captions": Poison(NOTHING, swapped_captions),
}
PICTURES, WORDS = ("badnets", "blended"), ("word trigger",)
FLIPS, TWICE = ("random flips", "flips between two classes"), ("exact copies", "near copies")
KINDS: Mapping[str, Sequence[str]] = {
    "digits": ("none", *FLIPS, *PICTURES, "sig", *TWICE),
    "sentiment": ("none", *FLIPS, *WORDS, *TWICE),
    "crawl": ("none", "replaced pictures", "swapped captions", *TWICE),
    "crawl, no churn": ("none", "replaced pictures", "swapped captions", *TWICE),
}


class Task(NamedTuple):
    """A task of the measurement.

    Args:
        words: on the command line; {seed} stands for the seed.
        poison: the kinds of poison that `sees` measures it with.
        of: the kinds of findings whose filters are measured on it without poison; none: all filters.
        name: in the table of clean rows, whose runs are left out when the task is judged; empty: its own name.
    """

    words: tuple[str, ...]
    poison: tuple[str, ...]
    of: tuple[Kind, ...] = ()
    name: str = ""


def tasks(data: Path) -> dict[str, Task]:
    """Return the tasks by their names; a seed of a crawl also decides which pictures change."""
    flips, web = ("random flips",), ("task=crawl", "task.split_seed={seed}")
    pairs: tuple[Kind, ...] = ("changed", "caption")
    return {
        "digits": Task(("task=digits",), (*flips, *PICTURES)),
        "mnist": Task(("task=mnist", f"task.root={data / 'mnist'}", "task.limit=6000"), (*flips, *PICTURES)),
        "breast_cancer": Task(("task=breast_cancer",), flips),
        "wine": Task(("task=wine",), flips),
        "sms": Task(("task=sms", f"task.root={data / 'text' / 'sms_spam.tsv'}"), flips),
        "sentiment": Task(("task=sentiment",), (*flips, *WORDS)),
        "crawl": Task(web, (), pairs),
        "crawl_mnist": Task((*web, "task@task.pictures=mnist", f"task.pictures.root={data / 'mnist'}", "task.limit=1000"), (), pairs),
        "crawl, no churn": Task((*web, "task.churn=0"), (), pairs, "crawl"),
    }


class Judged(NamedTuple):
    """Verdicts of the filters on the rows of a run.

    Args:
        verdicts: of each filter.
        finds: what each filter looks for.
        task: the rows that were judged.
        poison: (N,) bool.
    """

    verdicts: dict[str, Verdict]
    finds: dict[str, Finds]
    task: Rows
    poison: Tensor

    @property
    def labels(self) -> Tensor:
        """(N,) the labels of the rows."""
        return self.task.train.labels


def judged(words: Sequence[str], seed: int, store: str, plant: Plant | None = None) -> Judged:
    """Run every filter of an audit that fits the rows of a run with an attack, or with planted rows."""
    verdicts, found, task, mask = dict[str, Verdict](), dict[str, Finds](), None, torch.zeros(0, dtype=torch.bool)
    for name in suite_names():
        given = [word.format(seed=seed) for word in words]
        setting = Setting.of([*given, f"seed={seed}", f"defense={name}", "task.trusted=0", f"results_dir={store}", "threads=1"])
        try:
            experiment = assemble(setting.tree, setting.store, task=task)
            if task is None and plant is not None:
                planted, mask = plant(experiment.task.train, Key.root(seed).child("planted"))
                experiment = assemble(setting.tree, setting.store, task=dataclasses.replace(experiment.task, train=planted, overlap="allow"))
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
    assert task is not None, "one filter fits"
    return Judged(verdicts, found, dataclasses.replace(task, train=rows.data), mask if len(mask) else rows.kinds.poison)


def measured_clean(data: Path, store: str, names: Sequence[str] = ()) -> CleanRows:
    """Return the sketches of all clean tasks; with names, of these, and the shipped ones of the others.

    A task whose name is that of another one is not measured.
    """
    chosen = {name: task for name, task in tasks(data).items() if not task.name and name in (names or tasks(data))}
    runs = {f"{name}/{seed}": judged([*task.words, *NOTHING], seed, store) for name, task in chosen.items() for seed in SEEDS}
    before = shipped() if names else CleanRows(filters={}, together={})
    for name in names:
        before = before.without(name)
    filters = {name: dict(sketches) for name, sketches in before.filters.items()}
    for run, found in runs.items():
        for name in _measured(chosen[task_of(run)], found):
            kept(filters, name, run, strengths(found.verdicts[name].suspicion, found.labels, found.finds[name].scale))
    half, together = CleanRows(filters=filters, together={}), {name: dict(sketches) for name, sketches in before.together.items()}
    for run, found in runs.items():
        shares = half.without(task_of(run)).shares(found.verdicts, found.finds, found.labels)  # a task does not judge itself
        measured = [name for name in _measured(chosen[task_of(run)], found) if name in shares]
        for kind in {found.finds[name].kind for name in measured}:
            same = sorted(name for name in measured if found.finds[name].kind == kind)
            if len(same) > 1:
                kept(together, "+".join(same), run, evidence([shares[name] for name in same]))
    return CleanRows(filters=filters, together=together)


def _measured(task: Task, found: Judged) -> list[str]:
    return [name for name in found.verdicts if not task.of or found.finds[name].kind in task.of]


def kept(table: dict[str, dict[str, Sketch]], name: str, run: str, values: Tensor) -> None:
    """Add the sketch of a run to a table, unless all rows are equal: then the filter says nothing there."""
    sketch = Sketch.of(values)
    if len(sketch.reached) > 1:
        table.setdefault(name, {})[run] = sketch


def seen(data: Path, store: str, kinds: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield one mapping for each task, kind of poison and seed: AUROC of each filter and of the joint order, and how many rows are named.

    Args:
        data: the folder of the data.
        store: the folder of models and verdicts.
        kinds: the kinds of poison, by the names of the tasks.
        seeds: each is one run.
    """
    from sklearn.metrics import roc_auc_score

    whole, every = shipped(), tasks(data)
    for name, whats in kinds.items():
        for what in whats:
            for seed in seeds:
                poisoned = POISON[what]
                found = judged([*every[name].words, *poisoned.words], seed, store, poisoned.plant)
                clean = whole.without(every[name].name or name)
                vetted = Vetted(task=found.task, verdicts=found.verdicts, statements={}, finds=found.finds, clean=clean, limit=SHARE)
                share, named, poison = vetted.share.where(~vetted.first, -1.0), vetted.named, found.poison.numpy()
                line: dict[str, object] = {"task": name, "poison": what, "seed": seed, "rows": len(poison), "poisoned": int(poison.sum())}
                line |= {"named": int(named.sum()), "false_flags": round(float(named[~found.poison].double().mean()), 4)}
                if poison.any():
                    line["found"] = round(float(named[found.poison].double().mean()), 4)
                    line["joint"] = round(float(roc_auc_score(poison, -share)), 4)
                    line["filters"] = {key: round(float(roc_auc_score(poison, verdict.suspicion)), 4) for key, verdict in found.verdicts.items()}
                yield line


def table(lines: Sequence[Mapping[str, object]]) -> str:
    """Return the lines of `kinds` as a table in Markdown: means over seeds, and the filter with the largest mean AUROC."""
    found = ["| task | poison | best filter | its AUROC | AUROC of the joint order | named poison | named others |", "|---|---|---|---|---|---|---|"]
    for name, what in dict.fromkeys((str(line["task"]), str(line["poison"])) for line in lines):
        same = [line for line in lines if (line["task"], line["poison"]) == (name, what)]
        false, same = _share(same, "false_flags"), [line for line in same if "joint" in line]  # a seed may have no poison
        if not same:
            found.append(f"| {name} | {what} | | | | | {false} |")
            continue
        each = [cast("Mapping[str, float]", line["filters"]) for line in same]
        means = {key: statistics.fmean(values[key] for values in each) for key in each[0]}
        best = max(means, key=lambda key: means[key])
        joint = statistics.fmean(cast("float", line["joint"]) for line in same)
        found.append(f"| {name} | {what} | `{best}` | {means[best]:.3f} | {joint:.3f} | {_share(same, 'found')} | {false} |")
    return "\n".join(found)


def _share(lines: Sequence[Mapping[str, object]], what: str) -> str:
    return f"{100 * statistics.fmean(cast('float', line[what]) for line in lines):.1f} %"


def main(words: Sequence[str]) -> int:
    """Measure one of them, or print a table.

    Raises:
        ConfigError: other words.
    """
    match list(words):
        case ["clean", data, store, *names] if {*names} <= tasks(Path(data)).keys():
            write_text(CLEAN, json.dumps(told(measured_clean(Path(data), store, names))) + "\n")
        case ["sees", data, store]:
            kinds = {name: ("none", *task.poison) for name, task in tasks(Path(data)).items() if task.poison}
            write_text(HOME / "results" / "vetting.json", json.dumps([*seen(Path(data), store, kinds, FRESH)], indent=1) + "\n")
        case ["kinds", data, store, file, *seeds] if seeds and all(seed.isdecimal() for seed in seeds):
            write_text(Path(file), json.dumps([*seen(Path(data), store, KINDS, [int(seed) for seed in seeds])], indent=1) + "\n")
        case ["table", file]:
            sys.stdout.write(table(json.loads(Path(file).read_text(encoding="utf-8"))) + "\n")
        case _:
            usage = "clean DATA STORE [TASK...], sees DATA STORE, kinds DATA STORE FILE SEED..., or table FILE"
            raise ConfigError(f"python -m benchmarks._vetting {usage}: DATA contains mnist and text, STORE keeps models and verdicts between runs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
