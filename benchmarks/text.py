"""Training throughput on texts: our loop and network against the same network as it is usually written, in a plain loop."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks._options import Options
from benchmarks._plain_text import PlainCNN, Sentences, train
from benchmarks._timing import in_turns
from poisonbench.config.compose import tree_of
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.tokens import Tokens
from poisonbench.learn.device import resolve
from poisonbench.nets.text import TextCNN
from poisonbench.report.benchmarks import Comparison
from poisonbench.runner.experiment import Experiment, assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.store import Store

BATCH = 64


def measure(options: Options, *, rows: int = 6920, repeats: int = 3) -> Iterator[Comparison]:
    """Yield one comparison for each number of DataLoader workers; one epoch over SST-2 (`--data`), or over as many generated reviews without a file."""
    adopt_own_packages()
    task = ("task=sentiment", f"task.rows={rows}") if options.data is None else ("task=sst2", f"task.root={options.data / 'text'}")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        words = (f"threads={torch.get_num_threads()}", "task.trusted=0.0", f"learner.batch_size={BATCH}", "learner.epochs=1", "net=text_cnn")
        experiment = assemble(tree_of([*task, *words]), store)
        honest = Line(experiment=experiment, store=store).honest
    data, net, sentences = experiment.task.train, *plain(experiment)
    for workers in (0, 2):
        costs = in_turns(
            lambda: experiment.learner.fit(data, honest, Key.root(100)),
            lambda workers=workers: train(net, sentences, batch_size=BATCH, workers=workers),  # type: ignore[misc]
            repeats=repeats,
        )
        yield Comparison(
            work=f"text CNN on {experiment.task.name}, batch {BATCH}, one epoch over {len(data)} texts",
            ours="learner=text",
            alternative=f"DataLoader with {workers} workers, rows of one length, Adam",
            unit="s",
            ours_cost=costs.ours,
            alternative_cost=costs.alternative,
            facts={**costs.cpu, "texts_per_second_ours": len(data) / min(costs.ours), "texts_per_second_alternative": len(data) / min(costs.alternative)},
        )


def plain(experiment: Experiment) -> tuple[PlainCNN, Sentences]:
    """Return the network of the experiment as it is usually written, and the training texts; places that are free in every row are left out."""
    data, recipe = experiment.task.train, experiment.learner.net  # type: ignore[attr-defined]
    assert isinstance(data.form, Tokens)
    assert isinstance(recipe, TextCNN)
    with seeded(Key.root(100)):
        net = PlainCNN(len(data.form.vocabulary), recipe.width, recipe.windows, recipe.filters, recipe.dropout).to(resolve("auto"))
    texts = [data.form.decode(row) for row in data.inputs]
    return net, Sentences(texts, data.labels.tolist(), data.form.places, int((data.inputs != 0).sum(1).max()))
