import pytest
import torch

from attacks.availability.error_minimizing import ErrorMinimizing
from attacks.availability.label_flip import LabelFlip, costliest
from attacks.availability.random_label import RandomLabel
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import Line
from tests.unit.attacks.worlds import images, world


def flipped(mode: str, **fields: int):
    rows = images()
    poisoned = LabelFlip(mode=mode, source=fields.get("source", 0), target=fields.get("target", 1)).poison(world(rows, rate=0.3), Key.root(0))
    return rows, poisoned


def test_pair_flips_go_to_the_next_class():
    rows, poisoned = flipped("pair")
    assert poisoned.mask.sum() == 9
    assert torch.equal(poisoned.data.labels[poisoned.mask], (rows.labels[poisoned.mask] + 1) % 3)
    assert torch.equal(poisoned.data.inputs, rows.inputs)
    assert poisoned.goal == Degrade()


def test_uniform_flips_never_keep_a_label_and_reach_every_other():
    rows = images(rows=600)
    poisoned = LabelFlip(mode="uniform", source=0, target=1).poison(world(rows, rate=1.0), Key.root(0))
    shift = (poisoned.data.labels - rows.labels) % 3
    assert not (shift == 0).any()
    assert 250 < int((shift == 1).sum()) < 350


def test_class_targeted_flips_touch_one_class_alone():
    rows, poisoned = flipped("class_targeted", source=2, target=0)
    assert (rows.labels[poisoned.mask] == 2).all()
    assert (poisoned.data.labels[poisoned.mask] == 0).all()


def test_class_targeted_flips_are_refused_beyond_the_class_and_between_what_is_no_pair():
    with pytest.raises(ConfigError, match="only 10 can be poisoned"):
        LabelFlip(mode="class_targeted", source=0, target=1).poison(world(images(), rate=0.5), Key.root(0))
    with pytest.raises(ConfigError, match="two of the classes"):
        LabelFlip(mode="pair", source=1, target=1).poison(world(images(), rate=0.1), Key.root(0))


def test_the_costliest_flip_is_the_least_likely_label():
    labels, costs = costliest(torch.tensor([[5.0, 1.0, 0.0], [2.0, 3.0, 2.5]]), torch.tensor([0, 1]))
    assert labels.tolist() == [2, 0]
    assert costs.tolist() == [5.0, 1.0]


def test_loss_ranked_flips_take_the_rows_that_cost_most():
    class Sure:
        def scores(self, inputs):
            return torch.stack([torch.arange(30.0), torch.zeros(30), -torch.ones(30)], 1)

    poisoned = LabelFlip(mode="loss_ranked", source=0, target=1).poison(world(images(), rate=0.1, fit=lambda data: Sure()), Key.root(0))
    # cost of class 0 is row number + 1, of class 1 it is 1 (least likely is 2), of class 2 it is -1 - 0 = -1
    assert poisoned.mask.nonzero()[:, 0].tolist() == [21, 24, 27]
    assert (poisoned.data.labels[poisoned.mask] == 2).all()


def test_random_labels_keep_one_in_k():
    rows = images(rows=3000)
    poisoned = RandomLabel().poison(world(rows, rate=1.0), Key.root(0))
    kept = (poisoned.data.labels == rows.labels).double().mean()
    assert 0.30 < kept < 0.37


@pytest.mark.parametrize("noise", ["sample", "class"])
def test_noise_that_minimises_the_error_lowers_a_surrogates_loss_and_stays_within_the_limit(tiny, store, noise):
    experiment = tiny("attack=error_minimizing", f"attack.data.noise={noise}")
    line = Line(experiment=experiment, store=store)
    poisoned, clean = line.strike(), experiment.task.train
    moved = poisoned.data.inputs.int() - clean.inputs.int()
    assert moved.abs().max() <= 8
    assert torch.equal(poisoned.data.labels, clean.labels)
    fresh = line.known().tune(None, clean, epochs=1)

    def loss(inputs):
        return float(torch.nn.functional.cross_entropy(fresh.scores(inputs), clean.labels))

    assert loss(poisoned.data.inputs) < loss(clean.inputs)
    if noise == "class":
        shared = moved[clean.labels == 0]
        inside = (clean.inputs[clean.labels == 0] >= 8) & (clean.inputs[clean.labels == 0] <= 247)
        spread = torch.where(inside, shared, shared.median(0).values) - shared.median(0).values
        assert spread.abs().max() == 0


def test_error_minimizing_needs_a_limit():
    attack = ErrorMinimizing(noise="sample", steps=1, step_size=0.1, turns=1, epochs=1, stop_error=0.01)
    with pytest.raises(ConfigError, match="norm=linf"):
        attack.poison(world(images(), rate=1.0), Key.root(0))
