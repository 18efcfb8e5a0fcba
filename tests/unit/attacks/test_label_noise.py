"""Label noise with known answers: maps of classes, flip rates and draws."""

import math

import pytest
import torch
from scipy import stats

from attacks.availability.asymmetric import KEPT, Asymmetric, most_confused, published
from attacks.availability.instance_dependent import InstanceDependent, drawn, truncated_normal, wrong_labels
from poisonbench.config.compose import tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from tests.unit.attacks.worlds import images, world

FLIPS = InstanceDependent(deviation=0.1)


class Fixed:
    """A surrogate with the same scores for every row of a class."""

    def __init__(self, scores_KK: list[list[float]], labels) -> None:
        self.table = torch.tensor(scores_KK)[labels]

    def scores(self, inputs):
        return self.table


@pytest.mark.parametrize(("name", "pairs"), [("cifar10", {(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)}), ("mnist", {(2, 7), (3, 8), (5, 6), (6, 5), (7, 1)})])
def test_a_published_map_changes_rows_of_its_classes_alone_as_it_says(name, pairs):
    rows = images(rows=200, kinds=10)
    poisoned = Asymmetric(mapping=name).poison(world(rows, rate=0.4), Key.root(0))
    assert int(poisoned.mask.sum()) == 80
    changed = set(zip(rows.labels[poisoned.mask].tolist(), poisoned.data.labels[poisoned.mask].tolist(), strict=True))
    assert changed == pairs
    assert torch.equal(poisoned.data.labels[~poisoned.mask], rows.labels[~poisoned.mask])
    assert torch.equal(poisoned.data.inputs, rows.inputs)
    assert poisoned.goal == Degrade()


def test_a_published_map_has_no_room_for_more_rows_than_its_classes_have():
    with pytest.raises(ConfigError, match="only 100 can be poisoned"):
        Asymmetric(mapping="cifar10").poison(world(images(rows=200, kinds=10), rate=0.6), Key.root(0))


def test_a_published_map_is_refused_for_another_number_of_classes_and_an_unknown_one_always():
    with pytest.raises(ConfigError, match="mapping=surrogate"):
        published("mnist", 3)
    with pytest.raises(ConfigError, match="choose surrogate, cifar10 or mnist"):
        Asymmetric(mapping="svhn")


def test_a_class_goes_to_the_one_with_the_largest_mean_probability():
    # class 0: probabilities of class 1 are 0.6 and 0.0, of class 2 they are 0.1 and 0.4; means 0.3 and 0.25
    chances = torch.tensor([[0.3, 0.6, 0.1], [0.6, 1e-9, 0.4], [0.1, 0.2, 0.7]])
    assert most_confused(chances.log(), torch.tensor([0, 0, 2])).tolist() == [1, KEPT, 1]


def test_the_map_of_a_surrogate_reaches_every_class():
    rows = images(rows=30)
    scores = [[9.0, 1.0, 2.0], [3.0, 9.0, 1.0], [1.0, 2.0, 9.0]]
    poisoned = Asymmetric(mapping="surrogate").poison(world(rows, rate=1.0, fit=lambda data: Fixed(scores, data.labels)), Key.root(0))
    assert poisoned.mask.all()
    assert torch.equal(poisoned.data.labels, torch.tensor([2, 0, 1])[rows.labels])


def test_symmetric_noise_is_the_uniform_flip():
    data = tree_of(["attack=symmetric"])["attack"]["data"]
    assert data["_target_"].endswith("LabelFlip")
    assert data["mode"] == "uniform"


def test_flip_rates_are_the_quantiles_of_the_truncated_normal_distribution():
    chances = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    for mean in (0.05, 0.4):
        expected = stats.truncnorm.ppf(chances.numpy(), -mean / 0.1, (1 - mean) / 0.1, loc=mean, scale=0.1)
        torch.testing.assert_close(truncated_normal(chances, mean, 0.1), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_a_label_is_drawn_where_the_running_sum_passes_the_coin():
    chances = torch.tensor([[0.2, 0.0, 0.8]], dtype=torch.float64).expand(4, 3)
    assert drawn(chances, torch.tensor([0.0, 0.19, 0.2, 0.999], dtype=torch.float64)).tolist() == [0, 0, 2, 2]


def test_the_probabilities_of_wrong_labels_are_the_softmax_of_the_projection_of_the_class():
    rows, key = Dataset.of(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 2]), num_classes=3), Key.root(5)
    chances = wrong_labels(rows, rows.inputs, key)
    for row, (value, label) in enumerate([(-1.0, 0), (1.0, 2)]):  # standardised inputs: mean 2, deviation 1
        matrix = torch.randn(1, 3, generator=key.child(f"class/{label}").torch(), dtype=torch.float64)[0]
        weights = [0.0 if kind == label else math.exp(value * float(matrix[kind])) for kind in range(3)]
        torch.testing.assert_close(chances[row], torch.tensor(weights, dtype=torch.float64) / sum(weights))


@pytest.mark.parametrize(("rate", "count"), [(0.1, 61), (0.4, 246), (1.0, 617)])
def test_exactly_the_share_of_the_budget_changes_and_no_label_stays(rate, count):
    rows = images(rows=617)
    poisoned = FLIPS.poison(world(rows, rate=rate), Key.root(0))
    assert torch.equal(poisoned.data.labels != rows.labels, poisoned.mask)
    assert int(poisoned.mask.sum()) == count == math.floor(rate * 617)


def test_the_flipped_rows_are_those_of_the_paper_but_for_the_ones_at_the_threshold():
    rows = images(rows=3000)
    chances, coins = Key.root(0).child("rows").per_row(rows.ids, draws=2).unbind(1)
    paper = coins < truncated_normal(chances, 0.3, 0.1)
    ours = FLIPS.poison(world(rows, rate=0.3), Key.root(0)).mask
    assert int((paper ^ ours).sum()) == abs(int(paper.sum()) - 900)  # one set contains the other
    assert 0 < int((paper ^ ours).sum()) < 100


def test_equal_inputs_of_a_class_go_to_few_labels_and_a_class_to_many():
    # one picture 300 times: the projection decides, so the most frequent wrong label has more than the 1 / 9 of symmetric noise
    pixels = images(rows=300, kinds=10).inputs
    same = Dataset.of(torch.cat([pixels[:1].expand(300, -1, -1, -1), pixels]), torch.zeros(600, dtype=torch.int64), num_classes=10)
    labels = FLIPS.poison(world(same, rate=1.0), Key.root(0)).data.labels
    alike, different = (labels[part].bincount(minlength=10).double() / 300 for part in (slice(0, 300), slice(300, 600)))
    assert alike.max() > 0.9
    assert different.max() < 0.5


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(ConfigError, match="finite number above 0"):
        InstanceDependent(deviation=0.0)
