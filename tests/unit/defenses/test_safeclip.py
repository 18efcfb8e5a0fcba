"""SafeCLIP: the mixture on planted components, the split of a batch by hand, and the order of the epochs."""

import dataclasses

import pytest
import torch

from defenses.train import safeclip
from defenses.train.safeclip import STATE, Divided, SafeStep, likely, state_of
from defenses.views import Views
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run

VIEWS = Views(shift=0, light=0.0, noise=0.0, words=0.0)
STEP = SafeStep(warmup=1, slow=0.25, threshold=0.9, grow=0.1, most=0.85, views=VIEWS)


def moment(module: torch.nn.Module, epoch: int) -> Moment:
    return Moment(module=module, plan=Plan(rows=10, epochs=9, steps=1, shape=(1, 1, 1)), epoch=epoch, step=epoch, rng=Key.root(epoch))


def test_the_mixture_finds_two_planted_components():
    generator = Key.root(0).torch()
    low, high = 0.1 + 0.03 * torch.randn(50, generator=generator), 0.6 + 0.05 * torch.randn(200, generator=generator)
    chances = likely(torch.cat([low, high]), Key.root(0))
    assert (chances[:50] < 0.01).all()
    assert (chances[50:] > 0.99).all()


def test_safe_rows_have_the_objective_and_all_others_are_compared_with_themselves(monkeypatch):
    asked = []

    def inner(network, batch, label_smoothing):
        asked.append(batch.ids.tolist())
        return 10.0 + batch.inputs

    monkeypatch.setattr(Views, "unimodal", lambda self, net, batch, rng: asked.append(batch.ids.tolist()) or 1.0 * batch.inputs)
    batch = Batch(inputs=torch.arange(4.0), labels=torch.zeros(4), ids=torch.tensor([7, -1, 3, 5]))
    objective = Divided(inner=inner, net=None, safe=torch.tensor([3, 7]), views=VIEWS, rng=Key.root(0))
    assert objective(None, batch, 0.0).tolist() == [10.0, 1.0, 12.0, 3.0]
    assert asked == [[7, 3], [-1, 5]]
    assert dataclasses.replace(objective, safe=batch.ids)(None, batch, 0.0).tolist() == [10.0, 11.0, 12.0, 13.0]
    assert dataclasses.replace(objective, safe=batch.ids[:0])(None, batch, 0.0).tolist() == [0.0, 1.0, 2.0, 3.0]


def epochs(monkeypatch, tiny, count: int, chances: torch.Tensor):
    """Return the safe sets of some epochs, for pairs whose cosines fall from row to row."""
    data = tiny("task=crawl", "attack=none").task.train.take(torch.arange(10))
    monkeypatch.setattr(safeclip, "pair_net", lambda module, what: module)
    monkeypatch.setattr(safeclip, "cosines", lambda net, data: torch.linspace(0.9, 0.1, len(data)))
    monkeypatch.setattr(safeclip, "likely", lambda cosines, rng: chances)
    module, found = torch.nn.Linear(2, 2), []
    STEP.begin(module, data)
    for epoch in range(count):
        STEP.sample([torch.arange(10)], data, moment(module, epoch))
        found.append(torch.isin(data.ids, state_of(module).safe).nonzero()[:, 0].tolist())
    return module, found


def test_no_pair_is_safe_at_first_then_all_are_and_then_the_best_ones_and_more_in_each_epoch(monkeypatch, tiny):
    chances = torch.tensor([0.95] * 6 + [0.9] * 4)  # at the threshold is not above it
    module, found = epochs(monkeypatch, tiny, 7, chances)
    assert found == [[], list(range(10)), list(range(6)), list(range(7)), list(range(8)), list(range(8)), list(range(8))]  # 8.5 of 10 rows, rounded to even
    facts = STEP.finish(module, None)
    assert facts == pytest.approx({"safe_first": 0.6, "safe_last": 0.85})
    assert not hasattr(module, STATE)


def test_steps_of_the_slow_epoch_are_shortened_and_those_of_others_are_not(monkeypatch, tiny):
    module, _ = epochs(monkeypatch, tiny, 2, torch.ones(10))
    start, data = module.weight.detach().clone(), tiny("task=crawl", "attack=none").task.train.take(torch.arange(10))
    for move in (1.0, 2.0):  # two steps of the slow epoch: the next call shortens each
        STEP.rows(None, moment(module, 1))
        with torch.no_grad():
            module.weight.add_(move)
    STEP.sample([torch.arange(10)], data, moment(module, 2))
    torch.testing.assert_close(module.weight.detach(), start + 0.25 * 3)
    with torch.no_grad():
        module.weight.add_(1.0)
    STEP.rows(None, moment(module, 2))
    torch.testing.assert_close(module.weight.detach(), start + 0.25 * 3 + 1)


def test_a_training_with_safeclip_still_learns(tiny, store):
    words = ("attack=none", "task=crawl", "defense=safeclip", "learner.epochs=12", "net.pictures.widths=[16,32,64]", "defense.train.step.warmup=1")
    record = run(tiny(*words, "defense.train.step.grow=0.1"), store)
    assert 0 <= record.facts["safe_first"] < record.facts["safe_last"] <= 0.95
    assert record.metrics["c_acc"] > 0.4  # of ten classes


def test_other_networks_and_short_trainings_are_refused(tiny, store):
    with pytest.raises(Incompatible, match="learner=contrastive"):
        STEP.check(torch.nn.Linear(2, 2), None)
    with pytest.raises(ConfigError, match="warmup=5"):
        run(tiny("attack=clip_backdoor", "defense=safeclip", "learner.epochs=6", "defense.train.step.warmup=5"), store)


@pytest.mark.parametrize("fields", [{"warmup": -1}, {"slow": 0.0}, {"threshold": 1.0}, {"grow": -0.1}, {"most": 0.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(STEP, **fields)
