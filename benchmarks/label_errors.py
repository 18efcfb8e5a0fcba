"""Label errors as `audit` finds them, against cleanlab with the same network trained once for each of five folds."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmarks._options import Options
from benchmarks._timing import Time, costs_of, timed
from defenses.sanitize.confident_learning import dealt, own, trained
from poisonbench.config.setting import Setting
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Sanitizer, Verdict
from poisonbench.core.rng import Key
from poisonbench.core.short import EPOCHS, ShortVictim, served, suited
from poisonbench.report.benchmarks import Comparison
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line

FOLDS = 5
RATE = 0.05


@dataclass(frozen=True, kw_only=True)
class Cleanlab:
    """`cleanlab.filter.find_label_issues`, as shipped, on the probabilities of one model for each fold; suspicion is 1 minus that of the label."""

    VERSION: ClassVar[int] = 1

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Train, predict and name the rows."""
        from cleanlab.filter import find_label_issues

        chances_NK = trained(data, means, dealt(data, rng) % FOLDS)
        named = find_label_issues(data.labels.numpy(), chances_NK.numpy(), n_jobs=1)
        return Verdict(keep=~torch.from_numpy(named), suspicion=(1 - own(chances_NK, data.labels)).float())


def measure(options: Options, *, words: tuple[str, ...] = ("task=digits",), epochs: int | None = None, repeats: int = 3) -> Iterator[Comparison]:
    """Yield each filter of `audit` for label errors against cleanlab, which trains the network as a run does, and for as few epochs as `audit`.

    Each time has its own training; the loading of data and the imports of libraries are not counted. The seeds are 100 and up.

    Args:
        options: not used.
        words: of the run.
        epochs: of the full training; None: as the run says.
        repeats: repetitions of each.
    """
    full = () if epochs is None else (f"learner.epochs={epochs}",)
    peer: dict[str, Sanitizer] = {
        "the same network, 5 folds": Cleanlab(),
        f"the same network, 5 folds, {EPOCHS} epochs": ShortVictim(filter=Cleanlab(), epochs=EPOCHS),
    }
    cleanlab = {name: [ran((*words, *full), sanitizer, 100 + place) for place in range(repeats)] for name, sanitizer in peer.items()}
    for name in ("confident_learning", "deep_knn"):
        ours = [ran((*words, *full, f"defense={name}"), None, 100 + place) for place in range(repeats)]
        for other, theirs in cleanlab.items():
            costs = costs_of([each.time for each in ours], [each.time for each in theirs])
            yield Comparison(
                work=f"label errors among {ours[0].rows} rows of {words[0].partition('=')[2]}, {100 * RATE:.0f} % of the labels drawn at random",
                ours=f"{name} as in audit",
                alternative=f"cleanlab, {other}",
                unit="s",
                ours_cost=costs.ours,
                alternative_cost=costs.alternative,
                note=f"AUROC {mean(ours):.3f} against {mean(theirs):.3f}",
                facts={**costs.cpu, "auroc": mean(ours), "auroc_of_alternative": mean(theirs)},
            )


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One verdict.

    Args:
        time: that it took, with all trainings.
        auroc: of the suspicion.
        rows: how many were judged.
    """

    time: Time
    auroc: float
    rows: int


def ran(words: tuple[str, ...], sanitizer: Sanitizer | None, seed: int) -> Ran:
    """Judge the rows of a run with flipped labels by a filter, or by the one that the words name as `audit` uses it; nothing is stored before."""
    from sklearn.metrics import roc_auc_score

    with tempfile.TemporaryDirectory() as folder:
        given = (*words, "attack=random_label", f"threat.budget.rate={RATE}", f"seed={seed}", "task.trusted=0", "threads=1", f"results_dir={folder}")
        setting = Setting.of([*given])
        experiment = assemble(setting.tree, setting.store)
        used = sanitizer or served(suited(experiment.defense.sanitize), EPOCHS)
        line = Line(experiment=dataclasses.replace(experiment, defense=dataclasses.replace(experiment.defense, sanitize=used)), store=setting.store)
        rows, found = line.strike(), list[Verdict | None]()
        time = timed(lambda: found.append(line.judge(rows)))
        (verdict,) = found
        assert verdict is not None, "each of these filters judges"
        return Ran(time=time, auroc=float(roc_auc_score(rows.kinds.poison.numpy(), verdict.suspicion.numpy())), rows=len(rows.data))


def mean(found: list[Ran]) -> float:
    """Return the mean AUROC."""
    return sum(each.auroc for each in found) / len(found)
