import dataclasses

import pytest
import torch

from attacks.targeted.aims import bases, wished
from attacks.targeted.bullseye_polytope import BullseyePolytope, off_centre
from attacks.targeted.gradient_matching import Match
from attacks.targeted.label_flip_targeted import LabelFlipTargeted
from attacks.targeted.noise import augmented, within
from poisonbench.config.compose import tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from tests.unit.attacks.worlds import images, world


class Flat(torch.nn.Module):
    """A linear model whose features are the pixels."""

    def __init__(self, kinds: int = 3, width: int = 64) -> None:
        super().__init__()
        self.last = torch.nn.Linear(width, kinds)
        with torch.no_grad():
            self.last.weight.copy_(torch.linspace(-1, 1, kinds * width).view(kinds, width) / width)
            self.last.bias.zero_()

    def lift(self, inputs):
        return inputs.float()

    def features(self, inputs):
        return inputs.flatten(1)

    def head(self, features):
        return self.last(features)

    def forward(self, inputs):
        return self.head(self.features(inputs))


@dataclasses.dataclass
class Trained:
    module: Flat

    def features(self, inputs):
        return inputs.float().flatten(1)


def fit(data, *, draw=0):
    return Trained(Flat())


def aimed(**budget: object):
    rows = images()
    return world(rows.take(torch.arange(1, 30)), target=rows.take(torch.arange(1)), fit=fit, **budget)


def test_a_wish_is_never_the_truth_and_random_ones_reach_all_others():
    rows = images(rows=300)
    drawn = (wished(rows, "random", Key.root(0)) - rows.labels) % 3
    assert set(drawn.tolist()) == {1, 2}
    assert torch.equal(wished(rows, "next", Key.root(0)), (rows.labels + 1) % 3)


def test_wishes_among_some_classes_are_those_and_never_the_truth():
    labels = torch.arange(40) % 4
    targets = Dataset.of(torch.zeros(40, 1), labels, num_classes=4)
    every = wished(targets, "random", Key.root(100))
    assert torch.equal(every, wished(targets, "random", Key.root(100), among=torch.ones(4, dtype=torch.bool)))
    draws = Key.root(100).child("wish").per_row(targets.ids)[:, 0]
    assert torch.equal(every, (labels + 1 + (draws * 3).long()) % 4)
    among = torch.tensor([True, True, False, True])
    some = wished(targets, "random", Key.root(100), among=among)
    assert {*zip(labels.tolist(), some.tolist(), strict=True)} == {(label, wish) for label in range(4) for wish in (0, 1, 3) if label != wish}
    assert wished(targets, "next", Key.root(100), among=among)[:4].tolist() == [1, 3, 3, 0]
    alone = Dataset.of(torch.zeros(1, 1), torch.tensor([1]), num_classes=2)
    with pytest.raises(ConfigError, match="no class but that of a target can be wished for; choose a task with more classes"):
        wished(alone, "random", Key.root(100), among=torch.tensor([False, True]))


def test_bases_are_the_nearest_or_the_first_of_the_wished_class():
    known = aimed(count=3)
    near = bases(known, 1, "nearest", Key.root(0), fit(None))
    pool = (known.rows.labels == 1).nonzero()[:, 0]
    distances = (known.rows.inputs[pool].float() - known.targets.inputs.float()).flatten(1).norm(dim=1)
    assert near.tolist() == pool[distances.argsort()[:3]].tolist()
    assert bases(known, 1, "first", Key.root(0), fit(None)).tolist() == pool[:3].tolist()
    with pytest.raises(ConfigError, match="only 10 can be poisoned"):
        bases(aimed(count=11), 1, "random", Key.root(0), fit(None))


@pytest.mark.parametrize("name", ["bullseye_polytope", "gradient_matching"])
def test_bases_are_drawn_at_random_unless_asked_otherwise(name):
    """As in the setup files of the poisoning benchmark, and in the code of Geiping et al."""
    assert tree_of([f"attack={name}"])["attack"]["data"]["bases"] == "random"
    assert tree_of([f"attack={name}", "attack.data.bases=nearest"])["attack"]["data"]["bases"] == "nearest"


def test_random_bases_come_from_the_whole_of_the_wished_class():
    known = aimed(count=3)
    pool = (known.rows.labels == 1).nonzero()[:, 0].tolist()
    drawn = [bases(known, 1, "random", Key.root(seed), fit(None)).tolist() for seed in range(40)]
    assert all(len(set(rows)) == 3 for rows in drawn)
    assert {row for rows in drawn for row in rows} == set(pool)


def test_bullseye_reaches_its_optimum_where_features_are_pixels():
    """Without a limit the mean poison becomes the target itself."""
    attack = BullseyePolytope(wish="next", bases="first", iterations=400, lr=0.02, surrogates=1)
    known = aimed(count=4, norm="linf", limit=255.0, relabel=False)
    poisoned = attack.poison(known, Key.root(0))
    poisons = poisoned.data.inputs[poisoned.mask].float()
    assert float(off_centre(poisons.flatten(1), known.targets.inputs.float().flatten(1))) < 0.02
    assert torch.equal(poisoned.data.labels, known.rows.labels)


def test_bullseye_stays_within_its_limit_and_still_comes_nearer():
    attack = BullseyePolytope(wish="next", bases="first", iterations=100, lr=0.02, surrogates=2)
    known = aimed(count=4, norm="linf", limit=8.0, relabel=False)
    poisoned = attack.poison(known, Key.root(0))
    moved = poisoned.data.inputs.int() - known.rows.inputs.int()
    assert moved.abs().max() == 8
    target = known.targets.inputs.float().flatten(1)
    assert off_centre(poisoned.data.inputs[poisoned.mask].float().flatten(1), target) < off_centre(known.rows.inputs[poisoned.mask].float().flatten(1), target)


def test_targeted_attacks_on_pixels_need_a_limit():
    attack = BullseyePolytope(wish="next", bases="first", iterations=1, lr=0.02, surrogates=1)
    with pytest.raises(ConfigError, match="norm=linf"):
        attack.poison(aimed(count=4), Key.root(0))


def test_the_dirty_baseline_relabels_the_nearest_rows_of_other_labels():
    known = aimed(count=4)
    poisoned = LabelFlipTargeted(wish="next").poison(known, Key.root(0))
    pool = (known.rows.labels != 1).nonzero()[:, 0]
    distances = (known.rows.inputs[pool].float() - known.targets.inputs.float()).flatten(1).norm(dim=1)
    assert poisoned.mask.nonzero()[:, 0].tolist() == sorted(pool[distances.argsort()[:4]].tolist())
    assert (poisoned.data.labels[poisoned.mask] == 1).all()
    assert poisoned.goal.wish.tolist() == [1]


def test_the_parameter_gradient_of_a_linear_model_is_the_closed_form():
    module, inputs, labels = Flat().double(), torch.rand(5, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0, 1])
    probabilities = module(inputs).softmax(1)
    errors = (probabilities - torch.nn.functional.one_hot(labels, 3)) / 5
    expected = torch.cat([(errors.T @ inputs.flatten(1)).flatten(), errors.sum(0)])
    torch.testing.assert_close(Match(module, inputs, labels, 0.0, inputs[:0]).wanted, expected / expected.norm())


def test_augmentation_without_shift_or_mirror_is_the_identity_and_a_mirror_is_one():
    pixels = torch.rand(2, 1, 4, 4)
    draws = torch.tensor([[0.5, 0.5, 0.2], [0.5, 0.5, 0.9]])
    torch.testing.assert_close(augmented(pixels, draws, 0.0, flip=False), pixels)
    torch.testing.assert_close(augmented(pixels, draws, 0.0, flip=True), torch.stack([pixels[0].flip(2), pixels[1]]))


def test_noise_is_cut_to_the_limit_and_to_pixels():
    clean = torch.tensor([[[[2.0, 100.0]]]])
    assert within(torch.tensor([[[[-9.0, 9.0]]]]), clean, 8.0).flatten().tolist() == [-2.0, 8.0]
