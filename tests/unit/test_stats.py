import numpy as np
import pytest
from scipy.stats import binom

from poisonbench.stats import clopper_pearson, over_seeds, paired, ranks, wilson, worst


def test_the_interval_of_three_values_is_students():
    mean, half = over_seeds([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_one_value_has_no_interval():
    assert over_seeds([0.5]) == (0.5, None)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_covers_what_it_says(seeds):
    draws = np.random.default_rng(0).normal(size=(4000, seeds))
    covered = np.mean([abs(mean) <= half for mean, half in map(over_seeds, draws.tolist())])
    assert 0.935 <= covered <= 0.965


def test_a_wilson_interval_is_the_textbooks():
    # Wilson score, 95 %: 8 of 10 gives 0.4902 to 0.9433; 0 of 20 gives 0 to 0.1611
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_over_seeds_and_of_differences_cover_what_they_say(seeds):
    draws = np.random.default_rng(seeds).normal(0.3, 0.1, (8000, 2, seeds)) + np.random.default_rng(9).normal(0, 5, (8000, 1, seeds))
    alone = np.random.default_rng(seeds + 1).normal(0.3, 0.1, (8000, seeds))
    inside = [abs(mean - 0.3) <= half for mean, half in map(over_seeds, alone.tolist())]
    assert 0.935 <= np.mean(inside) <= 0.965
    differences = [paired(dict(enumerate(ours)), dict(enumerate(theirs))) for ours, theirs in draws.tolist()]
    assert 0.935 <= np.mean([abs(mean) <= half for mean, half in differences]) <= 0.965
    assert np.mean([half for _, half in differences]) < 1  # what the seed does to both is gone


@pytest.mark.parametrize("trials", [20, 50])
def test_intervals_of_proportions_cover_what_they_say(trials):
    chances = np.linspace(0.02, 0.98, 97)
    hits = np.arange(trials + 1)
    weights = binom.pmf(hits[None], trials, chances[:, None])
    for interval, least, most in ((wilson, 0.935, 0.965), (clopper_pearson, 0.95, 1.0)):
        ends = np.array([interval(int(count), trials) for count in hits])
        covered = (ends[:, 0] <= chances[:, None]) & (chances[:, None] <= ends[:, 1])
        coverage = (weights * covered).sum(1)
        assert least <= coverage.mean() <= most
        assert interval is wilson or coverage.min() >= 0.95


def test_differences_need_a_seed_in_common():
    assert paired({0: 1.0, 1: 2.0, 5: 9.0}, {0: 0.5, 1: 1.5}) == (0.5, 0.0)
    assert paired({0: 1.0}, {0: 0.5}) == (0.5, None)
    with pytest.raises(ValueError, match="no seed in common"):
        paired({0: 1.0}, {1: 0.5})


def test_ranks_are_one_place_where_cells_are_far_apart_and_all_where_nothing_is_known():
    far = {name: {seed: place + 0.01 * seed * seed * (place + 1) for seed in range(5)} for place, name in enumerate("abc")}
    assert ranks(far) == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}
    assert ranks({"a": {0: 1.0}, "b": {0: 9.0}}) == {"a": (1, 2), "b": (1, 2)}
    assert ranks({"a": {0: 1.0, 1: 1.1}, "b": {2: 9.0, 3: 9.1}}) == {"a": (1, 2), "b": (1, 2)}


def test_all_rank_intervals_hold_at_once():
    draws = np.random.default_rng(0).normal(0, 1, (600, 4, 5)) + np.array([0.0, 1.0, 2.0, 5.0])[None, :, None]
    whole = [ranks({str(place): dict(enumerate(row)) for place, row in enumerate(draw)}) for draw in draws.tolist()]
    assert np.mean([all(low <= place + 1 <= high for place, (low, high) in enumerate(found.values())) for found in whole]) >= 0.95
    assert np.mean([found["3"] == (4, 4) for found in whole]) > 0.1


def test_the_worst_case_is_named():
    assert worst({"sig": 0.9, "badnets": 0.1}, largest=True) == ("sig", 0.9)
    assert worst({"sig": 0.9, "badnets": 0.1}, largest=False) == ("badnets", 0.1)


def test_ranks_tell_two_cells_apart_at_the_level_of_one_pair_and_not_before():
    limit = 4.302653 / 3**0.5  # of three differences with standard deviation 1
    for lead, told in ((limit - 0.01, {"a": (1, 2), "b": (1, 2)}), (limit + 0.01, {"a": (1, 1), "b": (2, 2)})):
        figures = {"a": {0: 0.0, 1: 0.0, 2: 0.0}, "b": {0: lead - 1, 1: lead, 2: lead + 1}}
        assert ranks(figures) == told
        assert ranks(dict(reversed(figures.items()))) == told


def test_ranks_of_three_cells_share_the_level_among_three_pairs():
    limit = 7.648903 / 3**0.5  # Student's t at 1 - 0.05 / 6, two degrees of freedom
    for lead, told in ((limit - 0.05, (1, 3)), (limit + 0.05, (1, 2))):
        figures = {"a": {0: 0.0, 1: 0.0, 2: 0.0}, "b": {0: lead - 1, 1: lead, 2: lead + 1}, "c": {7: 1.0}}
        assert ranks(figures)["a"] == told


def test_ranks_of_equal_cells_are_shared():
    assert ranks({"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0, 1: 1.0}}) == {"a": (1, 2), "b": (1, 2)}


def test_a_difference_has_the_interval_of_the_level_asked_for():
    ours, theirs = {0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0}
    assert paired(ours, theirs, level=0.9)[1] == pytest.approx(2.919986 / 3**0.5, rel=1e-5)


def test_the_worst_case_is_that_of_the_figure_and_not_of_the_name():
    assert worst({"a": 0.2, "z": 0.1, "m": 0.9}, largest=True) == ("m", 0.9)
    assert worst({"z": 0.1, "a": 0.2}, largest=False) == ("z", 0.1)


def test_a_clopper_pearson_interval_is_the_textbooks():
    assert clopper_pearson(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)
