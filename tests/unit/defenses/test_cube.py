"""CUBE on planted clusters."""

import pytest
import torch

from defenses.sanitize.cube import Cube, clusters, distance
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.reals import Reals

PLAN = {"dims": 5, "smallest": 0.05, "neighbours": 5, "majority": 0.5}


class Planted:
    """Features are the inputs."""

    def features(self, inputs):
        return inputs


def planted(poison: int, shift: float = 15.0) -> tuple[Dataset, torch.Tensor]:
    """Return two classes of 200 rows; the last `poison` rows of class 1 lie elsewhere."""
    draws = torch.randn(400, 20, generator=Key.root(0).torch()) * torch.tensor([1.0] * 5 + [0.1] * 15)
    mask = torch.arange(400) >= 400 - poison
    draws[mask, :2] += shift
    return Dataset.of(draws, torch.arange(400) // 200, num_classes=2, form=Reals.numbered(20)), mask


def judged(data, **changes):
    means = Means(trusted=data, fit=lambda rows, draw=0: Planted(), tune=None, truth=torch.zeros(0, dtype=torch.bool))
    return Cube(**{**PLAN, **changes}).judge(data, means, Key.root(0))


def test_a_cluster_of_its_own_and_lone_rows_are_dropped():
    data, mask = planted(poison=40)
    lone = torch.tensor([200, 201])
    far = data.inputs[lone] + torch.tensor([[-60.0], [60.0]])
    verdict = judged(data.edit(lone, inputs=far))
    assert not verdict.keep[mask].any()
    assert not verdict.keep[lone].any()
    assert verdict.keep[202:360].all()
    assert verdict.keep[:200].all()  # a class of one cloud has no clusters
    assert verdict.suspicion[mask].min() > verdict.suspicion[202:360].max()


def test_a_class_without_a_cluster_of_the_majority_is_kept_whole():
    data, _ = planted(poison=40)
    third = (torch.arange(400) >= 200) & (torch.arange(400) < 280)
    data = data.edit(third.nonzero()[:, 0], inputs=data.inputs[third] - 15)
    # 80, 80 and 40 rows: no cluster has more than half
    assert judged(data).keep.all()
    kept = judged(data, majority=0.35).keep[200:].sum()
    assert kept == 80


def test_a_poison_of_more_than_half_of_a_class_is_what_is_kept():
    data, mask = planted(poison=140)
    verdict = judged(data)
    assert verdict.keep[mask].float().mean() > 0.9
    assert not verdict.keep[200:260].any()


def test_a_cluster_below_the_smallest_one_is_noise():
    data, mask = planted(poison=8)
    assert judged(data).keep.all()
    assert not judged(data, smallest=0.04).keep[mask].any()


def test_clusters_are_numbered_and_lone_rows_are_in_none():
    line = torch.arange(10.0).double()[:, None] / 100
    points = torch.cat([line, line[:7] + 5, torch.tensor([[100.0], [-100.0]]).double()]).numpy()
    found = clusters(points, 5, 2)
    assert found[:10].unique().numel() == found[10:17].unique().numel() == 1
    assert sorted({int(found[0]), int(found[10])}) == [0, 1]
    assert found[17:].tolist() == [-1, -1]


def test_distances_are_those_to_the_mean_of_the_main_rows_over_their_median():
    points = torch.tensor([[0.0], [2.0], [4.0], [12.0]]).double().numpy()
    # mean 2, distances 2, 0, 2 in the cluster (median 2), 10 outside
    torch.testing.assert_close(distance(points, torch.tensor([True, True, True, False])), torch.tensor([1.0, 0.0, 1.0, 5.0]))


def test_equal_rows_and_small_classes_are_kept():
    data = Dataset.of(
        torch.cat([torch.ones(50, 4), torch.randn(3, 4, generator=Key.root(1).torch())]), (torch.arange(53) >= 50).long(), num_classes=3, form=Reals.numbered(4)
    )
    verdict = judged(data)
    assert verdict.keep[50:].all()
    assert verdict.suspicion.isfinite().all()


@pytest.mark.parametrize("changes", [{"dims": 0}, {"smallest": 0.0}, {"smallest": 0.6}, {"neighbours": 0}, {"majority": 1.0}])
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=r"defense\.sanitize"):
        Cube(**{**PLAN, **changes})
