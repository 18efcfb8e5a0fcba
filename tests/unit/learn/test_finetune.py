import dataclasses

import pytest
import torch

from poisonbench.core.combine import honest
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Trained
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

SHORT = ("learner=finetune", "learner.base.epochs=2", "learner.member.epochs=1")


@pytest.fixture
def line(tiny, store):
    return Line(experiment=tiny(*SHORT), store=store)


def test_it_continues_the_training_of_the_public_rows(line):
    learner, data = line.learner, line.experiment.task.train
    first = learner.base.fit(line.experiment.task.public, line.honest, line.stream("public"))
    assert all(torch.equal(value, first.state()[name]) for name, value in learner.fitted.items())
    by_hand = learner.member.fit(data, line.honest, Key.root(3), first)
    victim = learner.fit(data, line.honest, Key.root(3))
    assert torch.equal(victim.scores(data.inputs), by_hand.scores(data.inputs))
    many = learner.fit_many([data, data], line.honest, [Key.root(3), Key.root(4)])
    assert torch.equal(many[0].scores(data.inputs), by_hand.scores(data.inputs))
    assert not torch.equal(many[1].scores(data.inputs), by_hand.scores(data.inputs))


def test_every_weight_moves_and_the_statistics_of_the_inputs_stay_those_of_the_public_rows(line):
    learner, data = line.learner, line.experiment.task.train
    victim = learner.fit(data, line.honest, Key.root(0))
    names = [name for name, _ in victim.net.named_parameters()]
    assert names
    assert all(not torch.equal(victim.state()[name], learner.fitted[name]) for name in names)
    from_scratch = learner.member.fit(data, line.honest, Key.root(0))
    fixed = {name for name, value in victim.state().items() if name not in names and torch.equal(value, learner.fitted[name])}
    measured = {name for name in fixed if not torch.equal(from_scratch.state()[name], learner.fitted[name])}
    assert measured, "no statistic of the inputs is kept from the public rows"


def test_a_learning_rate_near_zero_leaves_the_first_weights(line):
    learner, data = line.learner, line.experiment.task.train
    still = dataclasses.replace(learner, member=dataclasses.replace(learner.member, lr=1e-12, weight_decay=0.0))
    victim = still.fit(data, line.honest, Key.root(0))
    for name, value in victim.net.named_parameters():
        torch.testing.assert_close(value.detach(), learner.fitted[name], rtol=0, atol=1e-7)


def test_it_survives_the_store(line):
    learner, data = line.learner, line.experiment.task.train
    victim = learner.fit(data, line.honest, Key.root(0))
    again = learner.restore(Trained.of(victim), data, honest(data))
    assert torch.equal(victim.scores(data.inputs), again.scores(data.inputs))


def test_two_networks_and_no_public_rows_are_refused(tiny, store):
    with pytest.raises(ConfigError, match=r"set task\.public"):
        run(tiny(*SHORT, "task.public=0"), store)
    experiment = tiny(*SHORT)
    other = dataclasses.replace(experiment.learner.base.net, pool="average")
    learner = dataclasses.replace(experiment.learner, base=dataclasses.replace(experiment.learner.base, net=other))
    with pytest.raises(ConfigError, match="needs the same network in both"):
        run(dataclasses.replace(experiment, learner=learner), store)


def test_steps_filters_repairs_and_ensembles_run_around_it(tiny, store):
    for words in (("defense=mixup",), ("defense=spectral",), ("defense=fine_tune",), ("defense=dpa", "defense.train.parts=2")):
        assert run(tiny(*SHORT, *words), store).status == "done", words
