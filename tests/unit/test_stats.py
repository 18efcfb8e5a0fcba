import numpy as np
import pytest

from poisonbench.stats import over_seeds, wilson


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
