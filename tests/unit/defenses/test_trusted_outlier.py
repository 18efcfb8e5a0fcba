"""Outliers among trusted rows, worked by hand."""

import pytest
import torch

from defenses.sanitize.trusted_outlier import TrustedOutlier
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run


def line(*places: float, labels: list[int]) -> Dataset:
    return Dataset.of(torch.tensor(places)[:, None], torch.tensor(labels), num_classes=3)


def verdict(trusted: Dataset, data: Dataset, **fields: float):
    means = Means(trusted=trusted, fit=None, tune=None, truth=torch.zeros(0, dtype=torch.bool))
    return TrustedOutlier(**{"neighbours": 1, "percentile": 1.0, **fields}).judge(data, means, Key.root(0))


# class 0 lies at 0, 1, 3: each is 1, 1 and 2 from the nearest other, 3, 2 and 3 from the second; class 1 at 10 and 14
TRUSTED = line(0.0, 1.0, 3.0, 10.0, 14.0, labels=[0, 0, 0, 1, 1])


def test_the_threshold_is_the_largest_distance_among_trusted_rows_of_the_class():
    told = verdict(TRUSTED, line(5.0, 5.1, -2.0, 5.0, 18.0, 18.5, labels=[0, 0, 0, 1, 1, 1]))
    assert told.keep.tolist() == [True, False, True, False, True, False]
    torch.testing.assert_close(told.suspicion, torch.tensor([1.0, 1.05, 1.0, 1.25, 1.0, 1.125]))


def test_the_percentile_lowers_the_threshold():
    rows = line(2.0, 4.5, labels=[0, 0])
    assert verdict(TRUSTED, rows, percentile=1.0).keep.tolist() == [True, True]
    assert verdict(TRUSTED, rows, percentile=0.5).keep.tolist() == [True, False]  # scores 1, 1, 2: the threshold is 1


def test_the_kth_neighbour_counts_trusted_rows_alone():
    rows = line(6.0, 6.1, 6.0, 6.0, labels=[0, 0, 0, 0])  # copies are no neighbours of each other
    assert verdict(TRUSTED, rows, neighbours=2).keep.tolist() == [False] * 4  # second nearest at 1: 5 away, and the threshold is 3
    assert verdict(TRUSTED, line(4.0, 4.1, labels=[0, 0]), neighbours=2).keep.tolist() == [True, False]


def test_a_class_without_two_trusted_rows_keeps_its_rows():
    told = verdict(TRUSTED, line(1e6, labels=[2]))
    assert told.keep.tolist() == [True]
    assert told.suspicion.tolist() == [0.0]


def test_trusted_rows_that_are_all_alike_leave_only_their_like():
    twins = line(2.0, 2.0, 2.0, labels=[0, 0, 0])
    told = verdict(twins, line(2.0, 2.5, labels=[0, 0]))
    assert told.keep.tolist() == [True, False]
    assert told.suspicion.isfinite().all()


@pytest.mark.parametrize("fields", [{"neighbours": 0}, {"percentile": 0.0}, {"percentile": 1.1}])
def test_numbers_that_mean_nothing_are_refused(fields):
    with pytest.raises(ConfigError):
        TrustedOutlier(**{"neighbours": 1, "percentile": 0.9, **fields})


def test_without_trusted_rows_it_is_refused_in_words(tiny, store):
    with pytest.raises(ConfigError, match=r"set task\.trusted"):
        run(tiny("defense=trusted_outlier", "task.trusted=0"), store)
