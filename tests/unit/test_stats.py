import numpy as np
import pytest
from scipy.stats import binom

from poisonbench.stats import clopper_pearson, intervals, mean_bounds, over_seeds, ranks, smallest_gap, worst
from tests.reliability.intervals import CELLS, EFFECTS, MEANS, SEEDS, apart, apart_by_pairs, covered, levels, samples, separated, student


def interval(*values: float, level: float = 0.95) -> tuple[float, float]:
    (found,) = intervals([values], level)
    assert found is not None
    return found


def board(**cells: list[float]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(values)) for name, values in cells.items()}


def test_a_range_is_the_mean_with_the_smallest_and_the_largest():
    assert over_seeds([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert over_seeds([0.5]) == (0.5, 0.5, 0.5)
    assert over_seeds([0.1] * 3) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 20])
def test_the_interval_of_zeros_and_ones_is_clopper_and_pearsons(count):
    for hits in range(count + 1):
        assert interval(*[1.0] * hits, *[0.0] * (count - hits)) == pytest.approx(clopper_pearson(hits, count), abs=1e-12)


def test_three_ones_leave_the_mean_open_down_to_the_cube_root():
    assert interval(1.0, 1.0, 1.0) == pytest.approx((0.025 ** (1 / 3), 1.0), abs=1e-12)


def test_the_interval_of_one_value_is_that_of_markov():
    assert interval(0.3) == pytest.approx((0.025 * 0.3, 1 - 0.025 * 0.7), abs=1e-12)


def test_the_interval_of_two_values_is_solved_by_hand():
    # P(b D1 + c D2 <= t) = t^2 / (b c) for t <= b, with D uniform on the simplex of three weights: an area in the triangle
    assert interval(0.5, 0.9)[0] == pytest.approx((0.025 * 0.5 * 0.9) ** 0.5, abs=1e-12)
    assert interval(0.1, 0.5)[1] == pytest.approx(1 - (0.025 * 0.5 * 0.9) ** 0.5, abs=1e-12)


@pytest.mark.parametrize("values", [(0.983, 0.99, 0.994), (0.1, 0.1, 0.7, 0.7, 0.7), (0.0, 0.003, 0.006), tuple(np.linspace(0.2, 0.9, 10))])
def test_the_interval_is_that_of_drawing_the_weights(values):
    weights = np.random.default_rng(0).dirichlet(np.ones(len(values) + 1), 400_000)
    low, high = interval(*values)
    error = 4 * (0.025 * 0.975 / 400_000) ** 0.5
    assert (weights @ [0.0, *sorted(values)] <= low).mean() == pytest.approx(0.025, abs=error)
    assert (weights @ [*sorted(values), 1.0] >= high).mean() == pytest.approx(0.025, abs=error)


def test_the_ends_of_an_interval_mirror_each_other_and_values_close_together_lose_no_digit():
    low, high = interval(0.2, 0.4, 0.9)
    assert interval(0.8, 0.6, 0.1) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert interval(0.5, 0.5 + 1e-12, 0.5 + 2e-12) == pytest.approx(interval(0.5, 0.5, 0.5), abs=1e-11)


def test_what_is_no_proportion_has_no_interval():
    assert intervals([[0.5, 1.5], [-0.1], [], [float("nan")], [1.0, 0.0]]) == [None, None, None, None, interval(1.0, 0.0)]


def test_a_higher_level_asks_for_a_wider_interval():
    assert interval(1.0, 1.0, level=0.99) == pytest.approx((0.005**0.5, 1.0), abs=1e-12)


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=list(EFFECTS))
def test_a_simulated_seed_has_the_mean_that_it_says(effect):
    for mean in MEANS:
        drawn = levels(effect, mean, (200_000,), np.random.default_rng(3))
        assert drawn.mean() == pytest.approx(mean, abs=5 * max(1e-9, drawn.std()) / 200_000**0.5)
    assert samples(effect, 0.5, (4000, 3), np.random.default_rng(4)).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("effect", EFFECTS.values(), ids=list(EFFECTS))
def test_the_interval_covers_at_least_93_per_cent(effect, seeds):
    assert min(covered(mean_bounds, effect, seeds, 500)) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("effect", EFFECTS.values(), ids=list(EFFECTS))
def test_the_interval_covers_at_least_93_per_cent_in_many_samples(effect, seeds):
    assert min(covered(mean_bounds, effect, seeds, 20_000)) >= 0.93


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("effect", EFFECTS.values(), ids=list(EFFECTS))
def test_equal_cells_are_seldom_separated(effect, seeds):
    assert max(separated(apart, effect, seeds, 20)) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("effect", EFFECTS.values(), ids=list(EFFECTS))
def test_equal_cells_are_seldom_separated_in_many_boards(effect, seeds):
    assert max(separated(apart, effect, seeds, 400)) <= 0.05


def test_the_simulation_fails_the_intervals_and_ranks_used_before():
    assert min(covered(student, 0.0, 3, 500)) < 0.7
    assert min(covered(student, None, 3, 500)) < 0.2
    assert separated(apart_by_pairs, 0.0, 3, 60)[0] > 0.2


def test_ranks_and_the_simulation_judge_a_board_alike():
    boards = np.clip(np.random.default_rng(5).normal(np.linspace(0.02, 0.98, 8)[None, :, None], 0.02, (10, 8, 20)), 0, 1)
    told = [ranks({str(place): dict(enumerate(cell)) for place, cell in enumerate(drawn.tolist())}) for drawn in boards]
    assert [any(rank != (1, 8) for rank in found.values()) for found in told] == apart(boards).tolist()
    assert apart(boards).all()


def test_three_seeds_that_agree_separate_nothing():
    assert ranks(board(a=[0.0] * 3, b=[1 / 324] * 3)) == {"a": (1, 2), "b": (1, 2)}
    assert ranks(board(a=[0.0] * 3, b=[1.0] * 3)) == {"a": (1, 2), "b": (1, 2)}


def test_ranks_are_one_place_where_cells_are_far_apart_and_all_where_nothing_is_known():
    assert ranks(board(a=[0.0] * 20, b=[1.0] * 20)) == {"a": (1, 1), "b": (2, 2)}
    assert ranks(board(a=[0.0] * 20, b=[1.0] * 20, c=[0.5])) == {"a": (1, 2), "b": (2, 3), "c": (1, 3)}
    assert ranks(board(a=[0.5] * 20)) == {"a": (1, 1)}
    assert ranks({}) == {}


def test_what_is_no_proportion_is_ranked_everywhere():
    assert ranks(board(a=[0.0] * 20, b=[1.0] * 20, c=[7.0] * 20))["c"] == (1, 3)


def test_all_rank_intervals_hold_at_once():
    chances = np.array([0.02, 0.3, 0.9, 0.98])
    draws = np.random.default_rng(0).random((60, 4, 14)) < chances[None, :, None]
    whole = [ranks({str(place): dict(enumerate(row)) for place, row in enumerate(draw)}) for draw in draws.astype(float).tolist()]
    assert np.mean([all(low <= place + 1 <= high for place, (low, high) in enumerate(found.values())) for found in whole]) >= 0.95
    assert np.mean([found["0"][1] == 2 and found["3"][0] >= 3 for found in whole]) > 0.5


@pytest.mark.parametrize(("cells", "seeds"), [(2, 10), (8, 10), (15, 20)])
def test_cells_are_separated_just_above_the_smallest_gap_and_not_below(cells, seeds):
    gap = smallest_gap(cells, seeds)
    assert gap is not None
    others = {f"other{number}": [0.5] for number in range(cells - 2)}
    for start in (0.0, (1 - gap) / 2):
        for lead, behind in ((gap - 1e-6, 1), (gap + 1e-6, 2)):
            assert ranks(board(a=[start] * seeds, b=[start + lead] * seeds, **others))["b"][0] == behind


def test_no_sample_separates_means_closer_than_the_smallest_gap():
    gap, rng = smallest_gap(2, 10), np.random.default_rng(6)
    low_mean = 0.01 + 0.3 * rng.random((4000, 1, 1))  # of one cell; the other mirrors it
    drawn = rng.beta(2 * low_mean, 2 * (1 - low_mean), (4000, 2, 10))
    drawn[:, 1] = 1 - drawn[:, 1]
    low, high = (ends.reshape(-1, 2) for ends in mean_bounds(drawn.reshape(-1, 10), 1 - 0.05 / 2))
    separate = low.max(1) > high.min(1)
    assert 100 < separate.sum() < 3900
    assert np.abs(drawn.mean(2)[:, 0] - drawn.mean(2)[:, 1])[separate].min() > gap


def test_few_seeds_have_no_gap_that_can_be_separated():
    assert [smallest_gap(cells, 3) for cells in CELLS] == [None, None, None]
    assert smallest_gap(2, 10) == pytest.approx(0.0125**-0.1 - 1)


@pytest.mark.parametrize("trials", [20, 50])
def test_intervals_of_proportions_cover_what_they_say(trials):
    chances, hits = np.linspace(0.02, 0.98, 97), np.arange(trials + 1)
    weights = binom.pmf(hits[None], trials, chances[:, None])
    ends = np.array([clopper_pearson(int(count), trials) for count in hits])
    covers = (ends[:, 0] <= chances[:, None]) & (chances[:, None] <= ends[:, 1])
    assert (weights * covers).sum(1).min() >= 0.95


def test_a_clopper_pearson_interval_is_the_textbooks():
    assert clopper_pearson(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)


def test_the_worst_case_is_named():
    assert worst({"sig": 0.9, "badnets": 0.1}, largest=True) == ("sig", 0.9)
    assert worst({"sig": 0.9, "badnets": 0.1}, largest=False) == ("badnets", 0.1)


def test_the_worst_case_is_that_of_the_figure_and_not_of_the_name():
    assert worst({"a": 0.2, "z": 0.1, "m": 0.9}, largest=True) == ("m", 0.9)
    assert worst({"z": 0.1, "a": 0.2}, largest=False) == ("z", 0.1)
