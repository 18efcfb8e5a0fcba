"""The loss of a training can be replaced, and the usual one keeps every key."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import canonical, key
from poisonbench.core.rng import Key
from poisonbench.learn.objectives import CROSS_ENTROPY, CrossEntropy, row_losses
from poisonbench.runner.stages import Line


@dataclass(frozen=True, kw_only=True)
class NextClass:
    """The cross-entropy of the class after the label."""

    VERSION: ClassVar[int] = 1
    classes: int

    def __call__(self, network, batch, label_smoothing):
        return row_losses(network(batch.inputs), (batch.labels + 1) % self.classes, label_smoothing)


def test_a_training_minimises_its_objective(tiny, store):
    experiment = tiny()
    data, honest = experiment.task.train, Line(experiment=experiment, store=store).honest
    shifted = dataclasses.replace(experiment.learner, objective=NextClass(classes=data.num_classes))
    victim, test = shifted.fit(data, honest, Key.root(100)), experiment.task.test
    assert (victim.scores(test.inputs).argmax(1) == (test.labels + 1) % data.num_classes).double().mean() > 0.95


def test_the_cross_entropy_is_written_as_nothing_and_another_objective_is(tiny):
    learner = tiny().learner
    assert learner.objective == CROSS_ENTROPY == CrossEntropy()
    assert "objective" not in canonical(learner)
    assert key(dataclasses.replace(learner, objective=NextClass(classes=4))) != key(learner)


def test_a_stack_has_no_other_objective(tiny):
    with pytest.raises(ConfigError, match="a stack minimises the cross-entropy alone"):
        dataclasses.replace(tiny().learner, stack="grouped", objective=NextClass(classes=4))


def test_the_cross_entropy_is_that_of_its_formula():
    batch = type("Rows", (), {"inputs": torch.tensor([[0.0, 1.0]]), "labels": torch.tensor([1])})
    (loss,) = CrossEntropy()(lambda inputs: inputs, batch, 0.0).tolist()
    assert loss == pytest.approx(float(torch.log1p(torch.exp(torch.tensor(-1.0)))))
