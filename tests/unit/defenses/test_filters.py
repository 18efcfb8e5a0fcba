"""Activation clustering, k-NN outliers and deep k-NN on planted features."""

import numpy as np
import pytest
import torch

from defenses.sanitize.activation_clustering import ActivationClustering, reduced, split
from defenses.sanitize.batch_clustering import BatchClustering
from defenses.sanitize.deep_knn import DeepKnn, votes
from defenses.sanitize.knn_outlier import KnnOutlier, relative_distance
from defenses.sanitize.oracle import Oracle
from defenses.sanitize.principal import centred, principal
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key

AC = {"reduction": "pca", "dims": 10, "rule": "silhouette", "size": 0.35, "silhouette": 0.1, "reclassified": 1.0}


class Planted:
    """Features are the inputs, scores those of a fixed answer."""

    def __init__(self, answers=None):
        self.answers = answers

    def features(self, inputs):
        return inputs

    def scores(self, inputs):
        return torch.nn.functional.one_hot(self.answers, 2).float()


def planted(poison: int = 30, shift: float = 12.0):
    """Two classes of 100 rows; the last `poison` rows of class 1 lie elsewhere."""
    draws = torch.randn(200, 20, generator=Key.root(0).torch())
    labels = torch.arange(200) // 100
    mask = torch.arange(200) >= 200 - poison
    draws[mask, 0] += shift
    return Dataset.of(draws, labels, num_classes=2), mask


def means(data, answers=None, truth=None):
    told = torch.zeros(0, dtype=torch.bool) if truth is None else truth
    return Means(trusted=data, fit=lambda rows, draw=0: Planted(answers), tune=None, truth=told)


@pytest.mark.parametrize("reduction", ["pca", "ica"])
@pytest.mark.parametrize("rule", ["silhouette", "relative_size"])
def test_clustering_finds_a_planted_cluster_whole(reduction, rule):
    data, mask = planted()
    # whitening makes every independent component as long as the planted one, so noise is not to outnumber it
    dims = {"pca": 10, "ica": 1}[reduction]
    verdict = ActivationClustering(**{**AC, "reduction": reduction, "rule": rule, "dims": dims}).judge(data, means(data), Key.root(0))
    assert (verdict.keep[mask] == 0).all()
    assert verdict.suspicion[mask].min() > verdict.suspicion[100:170].max()
    if rule == "silhouette":
        assert verdict.keep[~mask].all()


def test_clustering_keeps_a_class_of_one_cloud_and_a_class_split_near_halves():
    data, _ = planted(poison=0)
    assert ActivationClustering(**AC).judge(data, means(data), Key.root(0)).keep.all()
    halves, mask = planted(poison=45)
    assert ActivationClustering(**AC).judge(halves, means(halves), Key.root(0)).keep.all()  # 0.45 is not below 0.35
    assert (~ActivationClustering(**{**AC, "size": 0.5}).judge(halves, means(halves), Key.root(0)).keep[mask]).all()


def test_suspicion_is_the_place_between_the_centroids():
    points = np.array([[0.0], [0.2], [-0.2], [0.0], [10.0], [10.0]])
    clusters = split(points, Key.root(0))
    assert clusters.smaller.tolist() == [False] * 4 + [True] * 2
    torch.testing.assert_close(clusters.suspicion, torch.tensor([0.0, 0.02, -0.02, 0.0, 1.0, 1.0]))
    assert split(np.zeros((5, 2)), Key.root(0)).smaller.sum() == 0


def test_the_silhouette_in_pieces_is_that_of_all_distances_at_once():
    from sklearn.metrics import silhouette_score

    points = torch.randn(1500, 3, generator=Key.root(5).torch()).double().numpy()  # 8 MiB hold 699 rows of distances
    clusters = split(points, Key.root(0))
    assert clusters.silhouette() == pytest.approx(silhouette_score(points, clusters.smaller.numpy()), abs=1e-12)
    assert split(np.ones((5, 2)), Key.root(0)).silhouette() == -1.0


def test_the_exclusionary_rule_asks_a_model_that_never_saw_the_cluster():
    data, mask = planted()
    rule = ActivationClustering(**{**AC, "rule": "exclusionary"})
    disowned = torch.where(mask, 0, data.labels)
    assert (~rule.judge(data, means(data, disowned), Key.root(0)).keep[mask]).all()
    assert rule.judge(data, means(data, data.labels), Key.root(0)).keep.all()


def test_a_reduction_keeps_no_more_than_there_is():
    assert reduced(torch.randn(6, 20), "pca", 10, Key.root(0)).shape == (6, 5)
    assert reduced(torch.randn(60, 3), "pca", 10, Key.root(0)).shape == (60, 3)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 12)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_principal_components_are_those_of_scikit_learn_signs_included(shape, offset):
    from sklearn.decomposition import PCA

    features = torch.randn(shape, generator=Key.root(0).torch()) + offset
    theirs = PCA(5, svd_solver="full").fit_transform(features.double().numpy())
    np.testing.assert_allclose(reduced(features, "pca", 5, Key.root(0)), theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8)])
def test_principal_directions_and_their_share_are_those_of_a_singular_value_decomposition(shape):
    rows = centred(torch.randn(shape, generator=Key.root(1).torch()) + 7)
    _, singular, right = np.linalg.svd(rows.numpy(), full_matrices=False)
    found = principal(rows, 3)
    np.testing.assert_allclose(np.abs(found.directions.numpy().T @ right[:3].T), np.eye(3), atol=1e-10)
    assert found.share == pytest.approx(singular[0] ** 2 / (singular**2).sum(), rel=1e-12)


def test_no_component_is_made_of_rounding_alone():
    """Rows in a plane of 30 dimensions: the third component and those after it are zero."""
    flat = torch.randn(9, 2, generator=Key.root(2).torch()) @ torch.randn(2, 30, generator=Key.root(3).torch())
    points = reduced(flat.double(), "pca", 5, Key.root(0))
    assert (np.abs(points).max(0) > 1e-5 * np.abs(points).max()).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("rows", [8, 109])
def test_a_class_of_equal_rows_loses_none(rows):
    data = Dataset.of(torch.randn(1, 51, generator=Key.root(4).torch()).repeat(rows, 1), torch.zeros(rows, dtype=torch.int64), num_classes=2)
    verdict = ActivationClustering(**{**AC, "rule": "relative_size"}).judge(data, means(data), Key.root(0))
    assert verdict.keep.all()
    assert not verdict.suspicion.any()


def test_the_kth_neighbour_on_a_line_is_as_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [4.0], [20.0]])
    # second nearest others: 2, 1, 2, 3, 18; median 2
    torch.testing.assert_close(relative_distance(line, 2), torch.tensor([1.0, 0.5, 1.0, 1.5, 9.0]))
    assert relative_distance(line[:1], 3).tolist() == [0.0]


def test_outliers_are_found_only_with_more_neighbours_than_poison():
    data, mask = planted()
    found = KnnOutlier(expected_rate=0.15, margin=1.5, neighbours=None).judge(data, means(data), Key.root(0))
    assert (~found.keep[mask]).all()
    assert int((~found.keep).sum()) == 45
    missed = KnnOutlier(expected_rate=0.15, margin=1.0, neighbours=5).judge(data, means(data), Key.root(0))
    assert missed.keep[mask].double().mean() > 0.2


def test_neighbours_vote_the_row_itself_among_them():
    data = Dataset.of(torch.tensor([[0.0], [0.1], [0.2], [0.15], [9.0], [9.1]]), torch.tensor([0, 0, 0, 1, 1, 1]), num_classes=2)
    shares = votes(data.inputs, data, 3)
    torch.testing.assert_close(shares[3], torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    verdict = DeepKnn(neighbours=3).judge(data, means(data), Key.root(0))
    assert verdict.keep.tolist()[3] is False
    assert verdict.suspicion[3] == pytest.approx(2 / 3)


def test_votes_are_weighed_by_the_size_of_their_class():
    data = Dataset.of(torch.tensor([[0.0], [0.0], [0.0], [9.0], [9.0], [9.0], [9.0]]), torch.tensor([1, 0, 0, 0, 0, 0, 0]), num_classes=2)
    # row 0 sees one vote of a class of one and two of a class of six: 1 against 1/3
    torch.testing.assert_close(votes(data.inputs, data, 3)[0], torch.tensor([0.25, 0.75], dtype=torch.float64))


def test_the_oracle_removes_the_truth():
    data, mask = planted()
    assert torch.equal(Oracle().judge(data, means(data, truth=mask), Key.root(0)).keep, ~mask)


def test_values_that_mean_nothing_are_refused():
    for make in (
        lambda: ActivationClustering(**{**AC, "size": 0.9}),
        lambda: KnnOutlier(expected_rate=1.0, margin=1.5, neighbours=None),
        lambda: DeepKnn(neighbours=1),
    ):
        with pytest.raises(ConfigError, match=r"defense\.sanitize"):
            make()


@pytest.mark.parametrize("shuffled", [True, False])
def test_the_batchwise_variant_is_close_to_a_random_filter_where_the_right_one_finds_all(shuffled):
    draws = torch.randn(4000, 20, generator=Key.root(0).torch())
    labels, mask = torch.arange(4000) % 10, torch.zeros(4000, dtype=torch.bool)
    mask[torch.arange(0, 1000, 10)] = True  # a quarter of class 0
    draws[mask] += 6.0
    data = Dataset.of(draws, labels, num_classes=10)
    wrong = BatchClustering(batch_size=256, dims=10, shuffled=shuffled).judge(data, means(data), Key.root(0))
    right = ActivationClustering(**AC).judge(data, means(data), Key.root(0))
    assert (~right.keep[mask]).all()
    assert right.keep[~mask].double().mean() > 0.95
    assert 0.35 < (~wrong.keep[~mask]).double().mean() < 0.5  # it drops nearly half of the clean rows
    assert (~wrong.keep[mask]).double().mean() < 0.9
