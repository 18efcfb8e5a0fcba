"""Influence on the last layer against gradients from autograd, and the error of the projection."""

import dataclasses
import types

import pytest
import torch

from defenses.sanitize.influence_rank import InfluenceRank, sketched
from defenses.sanitize.tracin import TracIn, last_layer_of
from poisonbench.core.abilities import HeadGradients, checkpoints
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Trained
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import PADDING
from poisonbench.learn.objectives import whole_texts
from poisonbench.nets.gpt import begun
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

FIELDS = {"how": "trusted", "stage": None, "dimensions": 64, "expected_rate": 0.1, "margin": 1.0}


def ranked(**fields) -> InfluenceRank:
    return InfluenceRank(**{**FIELDS, **fields})


@pytest.fixture
def world(tiny, store):
    """Return a trained language model, training rows and trusted rows; prompts with responses, and a text."""
    line = Line(experiment=tiny("task=world"), store=store)
    task = line.experiment.task
    rows = task.train.take(torch.arange(0, len(task.train), 5)).append(task.public.take(torch.arange(2)))
    return line.learner.fit(task.train, line.honest, Key.root(100)), rows, task.trusted.take(torch.arange(6))


def one_by_one(data: Dataset) -> list[Dataset]:
    return [data.take(row) for row in torch.arange(len(data)).split(1)]


def gradient(victim, row: Dataset) -> torch.Tensor:
    """Return the (V, D) gradient of the loss of one row with respect to the output matrix, from autograd in float64."""
    texts, counted = whole_texts(row.inputs, row.extra["response"])
    with torch.no_grad():
        states = victim.words.states(begun(texts)).double()
    matrix = victim.words.table.weight.detach().double().requires_grad_()
    said = torch.nn.functional.pad(texts, (0, 1), value=PADDING)[:, :, None]
    loss = -torch.log_softmax(states @ matrix.T, 2).gather(2, said)[:, :, 0][counted].mean()
    assert float(loss.detach()) == pytest.approx(float(victim.losses(row)), rel=1e-4)
    return torch.autograd.grad(loss, matrix)[0]


def test_gradients_of_a_language_model_are_those_of_autograd(world):
    victim, rows, _ = world
    by_hand = torch.stack([gradient(victim, row) for row in one_by_one(rows)])
    told = torch.cat([part.whole for part in last_layer_of(victim, rows)(rows)])
    torch.testing.assert_close(told, by_hand, rtol=1e-4, atol=1e-6)
    assert by_hand.flatten(1).norm(dim=1).min() > 1e-2
    squares = torch.cat([part.squares for part in victim.head_gradients(rows)])
    torch.testing.assert_close(squares, by_hand.square().sum((1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["trusted", "self"])
def test_without_a_projection_the_influence_is_the_product_of_gradients(world, how):
    victim, rows, trusted = world
    own, theirs = (torch.stack([gradient(victim, row).flatten() for row in one_by_one(part)]) for part in (rows, trusted))
    told = ranked(how=how, dimensions=None).suspicion(victim, rows, trusted, Key.root(0))
    torch.testing.assert_close(told, -(own @ theirs.T).mean(1) if how == "trusted" else own.square().sum(1), rtol=1e-4, atol=1e-6)
    tracin = TracIn(how="self" if how == "self" else "trusted", layers="last", checkpoints=1, epochs=1, expected_rate=0.1, margin=1.0)
    torch.testing.assert_close(told, tracin.influence(victim, rows, trusted) * (1 if how == "self" else -1), rtol=1e-6, atol=1e-9)


def test_the_projection_has_the_stated_error():
    """Over 1,000 projections the mean error is near 0 and its mean square near the stated variance, within 4.5 of their own deviations."""
    draws = Key.root(100).torch()
    part = HeadGradients(errors=torch.randn(5, 3, 6, generator=draws).double(), features=torch.randn(5, 3, 4, generator=draws).double())
    rows = [sketched(lambda data: [part], None, 64, Key.root(seed)) for seed in range(100, 1100)]
    told, flat = torch.stack([sketches @ sketches.T for sketches in rows]), part.whole.flatten(1)
    exact, squares = flat @ flat.T, part.squares
    assert rows[0].shape == (5, 64)
    errors = (told - exact) / ((squares[:, None] * squares + exact.square()) / 64).sqrt()
    assert errors.mean(0).abs().max() < 4.5 / 1000**0.5
    assert (errors.square().mean(0) - 1).abs().max() < 4.5 * (2.5 / 1000) ** 0.5  # the fourth moment is a little above that of a normal draw


def test_rows_of_classes_have_one_place(tiny, store):
    line = Line(experiment=tiny(), store=store)
    data = line.experiment.task.train.take(torch.arange(30))
    victim = line.learner.fit(data, line.honest, Key.root(100))
    told = ranked(how="self", dimensions=None).suspicion(victim, data, data, Key.root(0))
    (part,) = last_layer_of(victim, data)(data)
    torch.testing.assert_close(told, part.errors.square().sum((1, 2)) * part.features.square().sum((1, 2)))


def test_checkpoints_are_the_models_that_the_training_kept(tiny, store):
    experiment = tiny("learner.history_every=1", "learner.epochs=3")
    line, data = Line(experiment=experiment, store=store), experiment.task.train.take(torch.arange(60))
    victim = line.learner.fit(data, line.honest, Key.root(100))
    kept = checkpoints(victim)
    assert len(kept) == 3
    assert torch.equal(kept[-1].scores(data.inputs), victim.scores(data.inputs))
    assert not torch.equal(kept[0].scores(data.inputs), victim.scores(data.inputs))
    alone = dataclasses.replace(victim, history=())
    assert checkpoints(alone) == [alone]
    means = types.SimpleNamespace(fit=lambda rows: victim, trusted=data.take(torch.arange(5)))
    parts = [ranked().suspicion(each, data, means.trusted, Key.root(1).child(f"checkpoint/{number}")) for number, each in enumerate(kept)]
    torch.testing.assert_close(ranked().judge(data, means, Key.root(1)).suspicion, sum(parts).float())


def test_a_training_in_stages_keeps_the_models_of_all_stages(tiny, store):
    words = [f"learner.{stage}.{word}" for stage in ("instruction", "safety") for word in ("history_every=1", "epochs=2")]
    line = Line(experiment=tiny("task=world", *words), store=store)
    victim = line.learner.fit(line.experiment.task.train, line.honest, Key.root(100))
    assert len(victim.history) == 4
    assert "history_every" not in victim.facts
    assert len(Trained.of(victim).history) == 4


def test_flipped_labels_have_the_largest_influence_on_themselves(tiny, store):
    words = ("attack=label_flip", "threat.budget.rate=0.1", "defense=influence_rank", "defense.sanitize.how=self", "learner.history_every=1")
    assert run(tiny(*words), store).metrics["auroc_all"] > 0.9


def test_the_influence_is_on_the_trusted_rows_of_a_stage(world):
    victim, rows, trusted = world
    mixed = trusted.edit(torch.arange(3), stage=torch.full((3,), 2))
    means = types.SimpleNamespace(fit=lambda data: victim, trusted=mixed)
    told = ranked(stage="safety", dimensions=None).judge(rows, means, Key.root(1)).suspicion
    torch.testing.assert_close(told, ranked(dimensions=None).suspicion(victim, rows, trusted.take(torch.arange(3)), Key.root(1)).float())
    with pytest.raises(ConfigError, match="stage preference"):
        ranked(stage="preference").check_trusted(mixed)


def test_trusted_rows_are_needed_to_compare_with_them(tiny, store):
    with pytest.raises(ConfigError, match="trusted"):
        run(tiny("defense=influence_rank", "task.trusted=0"), store)


@pytest.mark.parametrize("fields", [{"how": "others"}, {"stage": "dessert"}, {"dimensions": 0}, {"margin": -1.0}, {"expected_rate": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        ranked(**fields)
