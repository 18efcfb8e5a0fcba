"""Influence of training rows on held-out rows: estimates against a retraining without each row, on a small transformer.

The figures of interest are in the facts and in the note of each comparison: the rank correlation (Spearman) of an estimate with the change of the loss when
a row is left out, over rows drawn at random, with a 95 % percentile bootstrap interval over these rows. The model is trained in batches of all rows, so
that leaving one out changes no other row's batch; changes and estimates are means over the same random starts. The ratio is that of the costs for a row.

Shape letters: N rows, R rows that are left out, S random starts.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from benchmarks._options import Options
from benchmarks._timing import timed
from poisonbench.config.compose import tree_of
from poisonbench.core.abilities import losses_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Sanitizer
from poisonbench.core.learner import Victim
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.learn.tuned import Tuned
from poisonbench.report.benchmarks import Comparison
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.store import Store

RESAMPLES = 2000
LEVEL = 0.95
OPTIMIZERS = {"adamw": 0.01, "sgd": 0.3}  # and their learning rates, chosen on seeds 100 to 102 by the loss of the training rows
CHECKPOINTS = 12

Fit = Callable[[Dataset, int], Victim]  # trains on rows from a random start with this number


class Agreement(NamedTuple):
    """A rank correlation and its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return both as a text."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def agreement(changes: Tensor, estimates: Tensor, rng: Key) -> Agreement:
    """Return the rank correlation of (R,) estimates with (R,) changes; the interval is a percentile bootstrap over the rows."""
    import numpy as np
    from scipy.stats import spearmanr

    pairs = torch.stack([changes.double(), estimates.double()], 1).numpy()
    drawn = rng.numpy().integers(len(pairs), size=(RESAMPLES, len(pairs)))
    again = [float(spearmanr(some).statistic) for rows in drawn if np.ptp(some := pairs[rows], 0).min() > 0]  # of equal values there is no correlation
    low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(float(spearmanr(pairs).statistic), float(low), float(high))


def changes(fit: Fit, data: Dataset, held: Dataset, rows: Tensor, starts: Sequence[int]) -> Tensor:
    """Return (S, R) float64, by how much the mean loss of held-out rows is larger without each of these rows."""

    def loss(some: Dataset, start: int) -> Tensor:
        return losses_of(fit(some, start), held).double().mean()

    others = [torch.arange(len(data)) != row for row in rows.tolist()]
    whole = [loss(data, start) for start in starts]
    return torch.stack([torch.stack([loss(data.take(kept), start) for kept in others]) - before for start, before in zip(starts, whole, strict=True)])


def estimated(fit: Fit, filter_: Sanitizer, data: Dataset, held: Dataset, starts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return two (N,) float64 sums over the random starts: the estimated influence of each row on held-out rows, and its own loss."""
    influence, own = torch.zeros(2, len(data), dtype=torch.float64)
    for start in starts:
        victim = fit(data, start)
        means = Means(trusted=held, fit=lambda rows, draw=0, victim=victim: victim, tune=None, truth=torch.zeros(0))  # type: ignore[arg-type]
        verdict = filter_.judge(data, means, Key.root(start))
        assert verdict is not None, "this filter judges all rows"
        influence -= verdict.suspicion.double()
        own += losses_of(victim, data).double()
    return influence, own


def measure(options: Options, *, rows: int = 200, left_out: int = 40, starts: int = 6, epochs: int = 60) -> Iterator[Comparison]:
    """Yield one comparison for each optimiser, on questions about a made-up world; training and held-out rows are training rows of seed 100."""
    adopt_own_packages()
    kind = importlib.import_module("defenses.sanitize.influence_rank").InfluenceRank
    filter_ = kind(how="trusted", stage=None, dimensions=None, expected_rate=0.05, margin=1.0)
    numbers = range(100, 100 + starts)
    for optimizer, lr in OPTIMIZERS.items():
        fit, every = _setting(optimizer, lr, rows, epochs)
        data, held = every.take(torch.arange(rows)), every.take(torch.arange(rows, len(every)))
        chosen = Key.root(100).child("left out").pick(data.ids, left_out)
        found, moved = list[tuple[Tensor, Tensor]](), list[Tensor]()
        ours = timed(lambda fit=fit, data=data, held=held, found=found: found.append(estimated(fit, filter_, data, held, numbers)))  # type: ignore[misc]
        other = timed(lambda fit=fit, data=data, held=held, rows=chosen, moved=moved: moved.append(changes(fit, data, held, rows, numbers)))  # type: ignore[misc]
        influence, own = found[0]
        change = moved[0].mean(0)
        random = Key.root(100).child("random").per_row(chosen)[:, 0]
        names = {"tracin": influence[chosen], "loss": own[chosen], "random": random}
        told = {name: agreement(change, estimate, Key.root(100).child(name)) for name, estimate in names.items()}
        halves = agreement(moved[0][::2].mean(0), moved[0][1::2].mean(0), Key.root(100).child("halves"))
        yield Comparison(
            work=f"influence of one of {rows} instructions on {len(held)} others, a transformer of width 16, {optimizer}",
            ours=f"TracIn, last layer, {CHECKPOINTS} checkpoints",
            alternative="a retraining without the row",
            unit="s",
            ours_cost=(ours.cpu / starts / rows,),
            alternative_cost=(other.cpu / starts / (left_out + 1),),
            note=f"rank correlation with the change of the loss without the row, {left_out} rows, {starts} starts: TracIn {told['tracin']}, "
            f"loss of the row {told['loss']}, random order {told['random']}; of the changes of half of the starts with those of the other half {halves}",
            facts={
                f"{name}{part}": value for name, each in {**told, "halves": halves}.items() for part, value in zip(("", "_low", "_high"), each, strict=True)
            },
        )


def _setting(optimizer: str, lr: float, rows: int, epochs: int) -> tuple[Fit, Dataset]:
    """Return how a model is trained, and the rows: questions about few facts, several about each."""
    world = ("task=world_instructions", f"task.instruction={2 * rows}", "task.things=1", "task.texts=10", "task.held_out=0.05", "task.test_rows=10")
    recipe = {"epochs": epochs, "lr": lr, "batch_size": rows, "optimizer": optimizer, "history_every": max(1, epochs // CHECKPOINTS)}
    words = (*world, "net.width=16", "net.layers=1", "net.heads=2", f"threads={torch.get_num_threads()}", "seed=100")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        experiment = assemble(tree_of([*words, *(f"learner.instruction.{name}={value}" for name, value in recipe.items())]), store)
        line = Line(experiment=experiment, store=store)
    learner, combine = cast("Tuned", experiment.learner).instruction, line.honest
    return lambda data, start: learner.fit(data, combine, Key.root(start)), experiment.task.train
