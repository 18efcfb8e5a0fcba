"""The classes that a filter by class may judge."""

import dataclasses

import pytest
import torch

from defenses.sanitize.deep_knn import DeepKnn
from defenses.sanitize.random_drop import RandomDrop
from defenses.sanitize.spectral import SpectralSignatures
from poisonbench.core.classwise import LEAST, LargeClasses, by_class, held_to_large, judges_classes
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Defense, Means
from poisonbench.core.progress import listening
from poisonbench.core.rng import Key

SPECTRAL = SpectralSignatures(expected_rate=0.05, score="paper", classes="suspected", margin=1.5, keep_at_least=0.0)


class Inputs:
    """A victim whose features are its inputs."""

    def features(self, inputs, layer="penultimate"):
        return inputs


def world(*sizes: int):
    """Return classes of these sizes, with a few outliers of the first in one direction, and the rows that each model was trained on."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = torch.randperm(len(labels), generator=Key.root(1).torch())
    rows = torch.randn(len(labels), 16, generator=Key.root(0).torch())
    rows[: sizes[0] // 10, 3] += 20
    data, trained = Dataset.of(rows[order], labels[order], num_classes=len(sizes)), []

    def fit(data, *, draw=0):
        trained.append(data)
        return Inputs()

    return data, Means(trusted=data, fit=fit, tune=None, truth=torch.zeros(0, dtype=torch.bool)), trained


def test_rows_of_small_classes_stay_and_no_large_class_is_compared_with_them():
    data, means, _ = world(900, 60, 6, 2, 1)
    alone = SPECTRAL.judge(data, means, Key.root(0))
    assert data.labels[~alone.keep].unique().tolist() == [3]  # all variance of two rows lies in one direction
    held = LargeClasses(filter=SPECTRAL).judge(data, means, Key.root(0))
    assert data.labels[~held.keep].unique().tolist() == [0]
    assert held.keep[data.labels > 1].all()


def test_every_row_of_a_held_filter_has_the_suspicion_that_the_filter_alone_gives_it():
    data, means, _ = world(100, 40, 6)
    torch.testing.assert_close(LargeClasses(filter=SPECTRAL).judge(data, means, Key.root(0)).suspicion, SPECTRAL.judge(data, means, Key.root(0)).suspicion)


def test_a_held_filter_looks_at_the_model_that_was_trained_on_all_rows():
    data, means, trained = world(100, 40, 6)
    LargeClasses(filter=SPECTRAL).judge(data, means, Key.root(0))
    assert {rows.digest for rows in trained} == {data.digest}


def test_what_a_held_filter_leaves_out_of_a_training_stays_out():
    data, means, trained = world(100, 40, 6)

    class WithoutTheFirst:
        BY_CLASS = True

        def judge(self, data, means, rng):
            means.fit(data.take(torch.arange(len(data)) > 0), draw=1)
            return SPECTRAL.judge(data, means, rng)

    LargeClasses(filter=WithoutTheFirst()).judge(data, means, Key.root(0))
    assert [len(rows) for rows in trained] == [145, 146, 145, 146]


def test_where_every_class_is_small_all_rows_stay_in_an_order_of_suspicion():
    data, means, _ = world(6, 5)
    held = LargeClasses(filter=SPECTRAL).judge(data, means, Key.root(0))
    assert held.keep.all()
    assert len(held.suspicion.unique()) > 5


@pytest.mark.parametrize(("size", "held"), [(LEAST - 1, True), (LEAST, False)])
def test_a_filter_is_held_where_one_row_in_twenty_cannot_be_rare(size, held):
    data, _, _ = world(60, size)
    assert (held_to_large(SPECTRAL, data) == LargeClasses(filter=SPECTRAL)) == held


def test_a_filter_that_asks_all_rows_judges_small_classes_too():
    knn = DeepKnn(neighbours=5)
    assert held_to_large(knn, world(60, 1)[0]) is knn


@pytest.mark.parametrize(("like", "judges"), [(SPECTRAL, True), (DeepKnn(neighbours=5), False)])
def test_a_control_judges_class_by_class_if_the_filter_that_it_matches_does(like, judges):
    assert judges_classes(RandomDrop(like=Defense(sanitize=like))) == judges


def test_the_walk_over_classes_visits_each_row_once_and_tells_how_far_it_is():
    data, _, _ = world(5, 0, 3)
    heard = []
    with listening(lambda *told: heard.append(told)):
        walked = {label: rows for label, rows in by_class(data)}
    assert {label: rows.tolist() for label, rows in walked.items()} == {label: (data.labels == label).nonzero()[:, 0].tolist() for label in (0, 2)}
    assert heard == [("classes", 0, 2), ("classes", 1, 2), ("classes", 2, 2)]


def test_a_held_filter_is_handed_no_truth_that_is_not_there():
    data, means, _ = world(60, 3)
    seen = []

    class Asks:
        def judge(self, data, means, rng):
            seen.append(means.truth)
            return SPECTRAL.judge(data, means, rng)

    truth = torch.arange(len(data)) < 9
    for told in (means.truth, truth):
        LargeClasses(filter=Asks()).judge(data, dataclasses.replace(means, truth=told), Key.root(0))
    large = data.labels == 0
    assert [part.tolist() for part in seen] == [[], [], truth[large].tolist(), truth[~large].tolist()]
