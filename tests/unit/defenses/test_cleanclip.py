"""The objective of CleanCLIP by hand, and what it does to a model."""

import dataclasses
import math

import pytest
import torch

from defenses.repair.cleanclip import CleanClip, Unimodal, UnimodalStep
from defenses.views import Views
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

VIEWS = Views(shift=1, light=0.2, noise=8.0, words=0.1)


@pytest.fixture
def tuned(tiny, store):
    line = Line(experiment=tiny("attack=clip_backdoor", "task.trusted=0.2"), store=store)
    poisoned = line.strike()
    return line.fit(line.learner, poisoned.data, line.honest), line.means(poisoned, None)


def batch_of(rows) -> Batch:
    return Batch(inputs=rows.form.ready(rows.inputs), labels=rows.labels, ids=rows.ids, form=rows.form, extra=rows.extra)


def unlike(victim, rows) -> float:
    with torch.no_grad():
        return float(VIEWS.unimodal(victim.net, batch_of(rows), Key.root(7)).mean())


def test_the_weight_multiplies_the_losses_inside_a_modality(tuned):
    victim, means = tuned

    def inner(network, batch, label_smoothing):
        return torch.arange(3.0)

    batch, rng = batch_of(means.trusted.take(torch.arange(3))), Key.root(0)
    losses = Unimodal(inner=inner, net=victim.net, weight=2.0, views=VIEWS, rng=rng)(None, batch, 0.0)
    torch.testing.assert_close(losses, torch.arange(3.0) + 2 * VIEWS.unimodal(victim.net, batch, rng))


def test_without_the_losses_it_is_fine_tuning_and_with_them_views_become_alike(tuned):
    victim, means = tuned
    plain = means.tune(victim, means.trusted, epochs=20)
    none, some = (CleanClip(epochs=20, weight=weight, views=VIEWS).repair(victim, None, means, Key.root(0)).victim for weight in (0.0, 4.0))
    weights = {name: value for name, value in plain.state().items() if "running" not in name and "batches" not in name}  # the views are seen too
    assert all(torch.equal(none.state()[name], value) for name, value in weights.items())
    assert unlike(some, means.trusted) < 0.9 * unlike(plain, means.trusted)


def test_other_networks_and_rows_are_incompatible(tiny, store):
    with pytest.raises(Incompatible, match="learner=contrastive"):
        UnimodalStep(weight=1.0, views=VIEWS).check(torch.nn.Linear(2, 2), None)
    record = run(tiny("attack=backdoor", "defense=cleanclip", "task.trusted=0.2"), store)
    assert record.status == "skipped"
    assert "column caption" in record.reason


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"weight": -1.0}, {"weight": math.inf}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(CleanClip(epochs=1, weight=1.0, views=VIEWS), **fields)
