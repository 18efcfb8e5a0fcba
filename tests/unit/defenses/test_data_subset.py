"""Subsets of the rows, worked by hand and by brute force."""

import math

import pytest
import torch

from defenses.sanitize.data_subset import DataSubset, el2n, k_centre
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line


def subset(**fields) -> DataSubset:
    return DataSubset(**{"share": 0.5, "how": "random", "keep": "hard", "networks": 2, "epochs": 1, **fields})


class Itself:
    """A victim whose features and scores are its inputs."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def features(self, inputs, layer="penultimate"):
        return inputs

    def scores(self, inputs):
        return self.factor * inputs


def means(data: Dataset) -> Means:
    return Means(
        trusted=data.take(torch.arange(0)),
        fit=lambda data, draw=0: Itself(),
        tune=lambda victim, data, epochs, draw=0: Itself(epochs * (1.0 + draw)),
        truth=torch.zeros(0, dtype=torch.bool),
    )


def judged(filter_: DataSubset, data: Dataset):
    return filter_.judge(data, means(data), Key.root(3))


def farthest(points: list[list[float]], first: int, count: int) -> list[int]:
    """Choose centres with loops and math.dist: the row whose nearest centre is farthest, the first of several."""
    centres = [first]
    while len(centres) < count:
        gaps = [-1.0 if row in centres else min(math.dist(points[row], points[centre]) for centre in centres) for row in range(len(points))]
        centres.append(gaps.index(max(gaps)))
    return centres


def test_the_centres_on_a_line_are_those_of_hand():
    reach = k_centre(torch.tensor([[0.0], [1.0], [4.0], [9.0], [10.0]]).double(), first=1, count=3)
    assert reach.tolist() == [1.0, math.inf, 3.0, 1.0, 9.0]  # 1, then 10 at 9 from it, then 4 at 3 from 1; 0 and 9 lie 1 from a centre


@pytest.mark.parametrize("seed", range(5))
def test_the_centres_are_those_of_brute_force_on_points_of_a_grid_with_ties(seed):
    points = torch.randint(0, 6, (40, 2), generator=Key.root(seed).torch()).double()  # many rows are equal, many distances too
    for count in (1, 2, 7, 20, 40):
        reach = k_centre(points, first=seed, count=count)
        assert set(reach.argsort(descending=True, stable=True)[:count].tolist()) == set(farthest(points.tolist(), seed, count))


def test_the_filter_keeps_the_centres_of_each_class():
    points, labels = torch.randn(60, 2, generator=Key.root(0).torch()), torch.arange(60) % 3
    data, filter_ = Dataset.of(points, labels, num_classes=3), subset(how="k_centre", share=0.3)
    keep, draws = judged(filter_, data).keep, Key.root(3).child("data_subset").per_row(data.ids)[:, 0]
    for label in range(3):
        rows = (labels == label).nonzero()[:, 0]
        centres = farthest(points[rows].tolist(), int(draws[rows].argmin()), 6)
        assert set(keep[rows].nonzero()[:, 0].tolist()) == set(centres)


def test_el2n_of_three_rows_by_hand():
    """The probabilities are 3/4 and 1/4: a row of the first class is off by 1/4 twice, one of the second by 3/4 twice."""
    scores = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, 0.0]])
    expected = torch.tensor([math.sqrt(2) / 4, 3 * math.sqrt(2) / 4, math.sqrt(2) / 2]).double()
    torch.testing.assert_close(el2n(scores, torch.tensor([0, 1, 0])), expected)


@pytest.mark.parametrize(("keep", "kept"), [("hard", [1, 2]), ("easy", [0, 3])])
def test_the_mean_over_networks_of_several_draws_and_epochs_decides(keep, kept):
    scores = torch.tensor([[2.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 3.0]])
    data = Dataset.of(scores, torch.tensor([0, 0, 1, 1]), num_classes=2)
    told = judged(subset(how="el2n", keep=keep, networks=2, epochs=3), data)
    by_hand = (el2n(3 * scores, data.labels) + el2n(6 * scores, data.labels)) / 2
    torch.testing.assert_close(told.suspicion, (by_hand if keep == "easy" else -by_hand).float())
    assert told.keep.nonzero()[:, 0].tolist() == kept


@pytest.mark.parametrize("how", ["random", "k_centre", "el2n"])
@pytest.mark.parametrize(("share", "counts"), [(0.1, [1, 1, 5]), (0.25, [1, 2, 12]), (0.5, [2, 5, 25]), (1.0, [4, 10, 50])])
def test_every_class_keeps_exactly_its_share(how, share, counts):
    labels = torch.tensor([0] * 4 + [1] * 10 + [3] * 50)  # the third class has no rows
    data = Dataset.of(torch.randn(64, 4, generator=Key.root(1).torch()), labels, num_classes=4)
    keep = judged(subset(how=how, share=share), data).keep
    assert labels[keep].bincount(minlength=4).tolist() == [counts[0], counts[1], 0, counts[2]]


@pytest.mark.parametrize("how", ["random", "k_centre", "el2n"])
def test_a_smaller_share_is_part_of_a_larger_one_whatever_the_order_of_the_rows(how):
    data = Dataset.of(torch.randn(90, 3, generator=Key.root(2).torch()), torch.arange(90) % 3, num_classes=3)
    order = torch.randperm(90, generator=Key.root(4).torch())
    few, many = (judged(subset(how=how, share=share), data).keep for share in (0.1, 0.5))
    assert not (few & ~many).any()
    assert torch.equal(judged(subset(how=how, share=0.5), data.take(order)).keep, many[order])


def test_rows_that_are_all_equal_and_classes_of_one_row_have_a_finite_suspicion():
    data = Dataset.of(torch.ones(6, 2), torch.tensor([0, 0, 0, 0, 0, 1]), num_classes=2)
    told = judged(subset(how="k_centre"), data)
    assert told.suspicion.isfinite().all()
    assert data.labels[told.keep].tolist() == [0, 0, 1]


def test_early_networks_of_several_draws_differ_and_repeat_themselves(tiny, store):
    line = Line(experiment=tiny("defense=data_subset"), store=store)
    poisoned = line.strike()
    tune = line.means(poisoned, None).tune
    zero, again, one = (tune(None, poisoned.data, epochs=1, **draw).scores(poisoned.data.inputs) for draw in ({}, {"draw": 0}, {"draw": 1}))
    assert torch.equal(zero, again)
    assert (zero - one).abs().max() > 1e-2


def test_a_run_keeps_half_of_the_rows_and_still_learns(tiny, store):
    experiment = tiny("defense=data_subset", "defense.sanitize.share=0.5", "defense.sanitize.how=el2n", "defense.sanitize.networks=2")
    sizes, record = experiment.task.train.labels.bincount().tolist(), run(experiment, store)
    assert record.metrics["removed"] == sum(sizes) - sum(round(0.5 * size) for size in sizes)
    assert record.metrics["c_acc"] > 0.8


@pytest.mark.parametrize("fields", [{"share": 0.0}, {"share": 1.5}, {"networks": 0}, {"epochs": 0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        subset(**fields)
