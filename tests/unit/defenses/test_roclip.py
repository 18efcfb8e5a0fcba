"""RoCLIP: the nearest caption of a pool by hand, and when pictures are matched."""

import dataclasses
from types import MappingProxyType

import pytest
import torch

from defenses.train.roclip import POOL, Matched, MatchStep, nearest
from defenses.views import Views
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Column, Form
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.forms.prompts import CAPTION
from poisonbench.runner.pipeline import run

STILL = Views(shift=0, light=0.0, noise=0.0, words=0.0)
STEP = MatchStep(every=3, pool=0.5, views=STILL)


class Angles(torch.nn.Module):
    """Pictures and captions are unit vectors whose angles are their first numbers, plus a weight for each tower."""

    scale = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.ear = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))

    def pictures(self, inputs):
        return unit(inputs.flatten(1)[:, 0] + self.eye)

    def captions(self, words):
        return unit(words[:, 0].float() + self.ear)


def unit(angles: torch.Tensor) -> torch.Tensor:
    return torch.stack([angles.cos(), angles.sin()], 1)


def moment(module: torch.nn.Module, epoch: int) -> Moment:
    return Moment(module=module, plan=Plan(rows=4, epochs=6, steps=1, shape=(1, 1, 1)), epoch=epoch, step=epoch, rng=Key.root(epoch))


def test_the_nearest_caption_has_the_largest_cosine():
    pool = unit(torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(nearest(unit(torch.tensor([0.4, 0.6, 3.0])), pool), pool[[0, 1, 2]])


def test_a_matched_picture_learns_from_the_nearest_caption_and_captions_do_not():
    module, seen = Angles(), []

    def inner(network, batch, label_smoothing):
        seen.append(network(batch.inputs, batch.extra[CAPTION]))
        return seen[0].diagonal()

    inputs = torch.tensor([0.4, 1.7]).view(2, 1, 1, 1)
    batch = Batch(inputs=inputs, labels=torch.zeros(2), ids=torch.arange(2), extra={CAPTION: torch.tensor([[5], [6]])})
    losses = Matched(inner=inner, net=module, pool=torch.tensor([[0], [2], [4]]))(None, batch, 0.0)
    by_hand = 2 * torch.cos(inputs.flatten()[:, None] - torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(seen[0].detach(), by_hand)
    losses.sum().backward()
    assert module.eye.grad.abs() > 0.1
    assert module.ear.grad is None


def test_a_pool_is_drawn_in_every_third_epoch_alone():
    fields = {CAPTION: torch.arange(2, 8)[:, None]}
    rows = Dataset.of(torch.zeros(6, 1, 1, 1, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64), num_classes=1)
    rows = dataclasses.replace(rows, extra=MappingProxyType(fields), schema=MappingProxyType({**rows.schema, CAPTION: Column(form=Form(), role="said")}))
    module, plan, pools = torch.nn.Linear(1, 1), [torch.arange(6)], []
    STEP.begin(module, rows)
    for epoch in range(6):
        assert STEP.sample(plan, rows, moment(module, epoch)) is plan
        pools.append(getattr(module, POOL))
    assert [pool is not None for pool in pools] == [False, False, True, False, False, True]
    assert len(pools[2]) == len(pools[5]) == 3
    assert not torch.equal(pools[2], pools[5])
    assert STEP.finish(module, Plan(rows=6, epochs=6, steps=1, shape=(1, 1, 1))) == {"matched_epochs": 2}
    assert not hasattr(module, POOL)


def test_a_training_with_roclip_still_learns(tiny, store):
    record = run(
        tiny("attack=none", "task=crawl", "defense=roclip", "learner.epochs=20", "learner.batch_size=32", "task.limit=800", "net.pictures.widths=[16,32,64]"),
        store,
    )
    assert record.facts["matched_epochs"] == 10
    assert record.metrics["c_acc"] > 0.7  # of ten classes


def test_other_networks_are_incompatible():
    with pytest.raises(Incompatible, match="learner=contrastive"):
        STEP.check(torch.nn.Linear(2, 2), None)


@pytest.mark.parametrize("fields", [{"every": 0}, {"pool": 0.0}, {"pool": 1.5}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(STEP, **fields)
