"""Losses of rows against the objective of one row at a time, and the filter that ranks by them."""

import math

import pytest
import torch

from defenses.sanitize.loss_rank import LossRank
from poisonbench.core.abilities import losses_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

FIELDS = {"drop": "high", "epochs": None, "expected_rate": 0.25, "margin": 1.0}


class Given:
    """A victim whose scores are its inputs."""

    def scores(self, inputs):
        return inputs


def judged(data: Dataset, **fields):
    asked = []
    means = Means(
        trusted=data,
        fit=lambda data, draw=0: asked.append(None) or Given(),
        tune=lambda victim, data, epochs, draw=0: asked.append(epochs) or Given(),
        truth=torch.zeros(0, dtype=torch.bool),
    )
    return LossRank(**{**FIELDS, **fields}).judge(data, means, Key.root(0)), asked


def test_the_largest_or_the_smallest_loss_is_dropped():
    scores = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, 0.0], [0.0, 0.0]])
    data = Dataset.of(scores, torch.tensor([0, 1, 0, 1]), num_classes=2)
    losses = [-math.log(0.75), -math.log(0.25), math.log(2), math.log(2)]
    high, asked = judged(data)
    assert high.suspicion.tolist() == pytest.approx(losses)
    assert high.keep.tolist() == [True, False, True, True]
    assert asked == [None]
    low, asked = judged(data, drop="low", epochs=2)
    assert low.suspicion.tolist() == pytest.approx([-loss for loss in losses])
    assert low.keep.tolist() == [False, True, True, True]
    assert asked == [2]


@pytest.mark.parametrize("words", [(), ("task=world",)])
def test_the_loss_of_a_row_is_the_objective_of_a_batch_of_it_alone(tiny, store, words):
    experiment = tiny(*words)
    data = experiment.task.train.take(torch.arange(0, len(experiment.task.train), 7))
    line = Line(experiment=experiment, store=store)
    victim = line.learner.fit(data, line.honest, Key.root(100))
    batches = [one(data.take(row)) for row in torch.arange(len(data)).split(1)]
    alone = torch.cat([victim.learner.objective(victim.net, batch, 0.0).detach() for batch in batches])
    torch.testing.assert_close(losses_of(victim, data), alone, rtol=1e-4, atol=1e-5)
    assert alone.std() > 1e-3


def one(row: Dataset) -> Batch:
    return Batch(inputs=row.form.ready(row.inputs), labels=row.labels, ids=row.ids, form=row.form, extra=row.extra)


def test_flipped_labels_have_large_losses_under_a_short_victim(tiny, store):
    record = run(tiny("attack=label_flip", "threat.budget.rate=0.1", "defense=loss_rank", "defense.sanitize.epochs=2"), store)
    assert record.metrics["auroc_all"] > 0.9


@pytest.mark.parametrize("fields", [{"drop": "both"}, {"epochs": 0}, {"margin": -1.0}, {"expected_rate": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        LossRank(**{**FIELDS, **fields})
