"""Every rule on updates small enough to be worked by hand."""

import itertools

import pytest
import torch

from defenses.aggregate.columns import COLUMNS, middle
from defenses.aggregate.distances import krum_scores, squared_distances
from defenses.aggregate.fltrust import FlTrust
from defenses.aggregate.geometric_median import GeometricMedian
from defenses.aggregate.krum import VARIANTS, Krum
from defenses.aggregate.median import Median
from defenses.aggregate.multi_krum import MultiKrum
from defenses.aggregate.norm_clip import NormClip
from defenses.aggregate.trimmed_mean import TrimmedMean
from poisonbench.core.defense import Server
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key

ROWS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [9.0, 9.0]])


def server(f: int = 1, reference: torch.Tensor | None = None) -> Server:
    own = torch.ones(2) if reference is None else reference
    return Server(round=0, state=torch.zeros(2), malicious=f, reference=lambda: own)


def test_squared_distances_are_those_of_the_plane_even_far_from_the_origin():
    expected = [[0, 1, 4, 9, 162], [1, 0, 5, 4, 145], [4, 5, 0, 13, 130], [9, 4, 13, 0, 117], [162, 145, 130, 117, 0]]
    assert squared_distances(ROWS).round(decimals=6).tolist() == expected
    assert squared_distances(ROWS + 1e4).round(decimals=3).tolist() == expected


def test_krum_scores_five_vectors_as_by_hand():
    # n = 5, f = 1: the two nearest others
    assert krum_scores(squared_distances(ROWS), 2).round(decimals=6).tolist() == [5.0, 5.0, 9.0, 13.0, 247.0]
    assert Krum(malicious=None, variant="paper")(ROWS + torch.tensor([[0.0, -0.1], [0, 0], [0, 0], [0, 0], [0, 0]]), server()).tolist() == [1.0, 0.0]


def test_the_variants_sum_what_they_say():
    def scores(variant: str) -> list[float]:
        return [round(x, 4) for x in Krum(malicious=1, variant=variant).scores(ROWS, server()).tolist()]

    assert scores("paper")[:2] == [5.0, 5.0]  # 1 + 4 and 1 + 4
    assert scores("byzfl")[:2] == [14.0, 10.0]  # one neighbour more
    assert scores("ndss21")[:2] == [1.0, 1.0]  # self's 0 among the two
    assert scores("epfml")[:2] == [17.0, 17.0]  # fourth powers
    assert scores("flpoison")[:2] == [6.0, 5.2361]  # plain distances: 1 + 2 + 3 and 1 + 2 + sqrt 5
    assert scores("lie")[:2] == [6.0, 5.2361]  # four neighbours, self among them
    assert set(VARIANTS) == {"paper", "byzfl", "flpoison", "lie", "ndss21", "epfml"}


def test_krum_equals_brute_force_over_neighbourhoods():
    rows = torch.randn(8, 5, generator=Key.root(3).torch())
    costs = []
    for i in range(8):
        others = [float((rows[i] - rows[j]).square().sum()) for j in range(8) if j != i]
        costs.append(min(sum(chosen) for chosen in itertools.combinations(others, 8 - 2 - 2)))
    chosen = int(torch.tensor(costs).argmin())
    assert torch.equal(Krum(malicious=2, variant="paper")(rows, server()), rows[chosen])


def test_multi_krum_averages_the_best():
    assert MultiKrum(malicious=None, kept=None)(ROWS, server()).tolist() == [0.5, 0.0]
    assert MultiKrum(malicious=None, kept=1)(ROWS, server()).tolist() == [0.0, 0.0]


def test_median_and_trimmed_mean_as_by_hand():
    assert Median()(ROWS, server()).tolist() == [1.0, 0.0]
    assert Median()(ROWS[:4], server()).tolist() == [0.5, 0.0]
    torch.testing.assert_close(TrimmedMean(malicious=None)(ROWS, server()), torch.tensor([4 / 3, 2 / 3]))
    torch.testing.assert_close(TrimmedMean(malicious=2)(ROWS, server()), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(TrimmedMean(malicious=0)(ROWS, server()), ROWS.mean(0))


def test_the_geometric_median_of_an_equilateral_triangle_is_its_centre_and_of_a_majority_its_point():
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    found = GeometricMedian(steps=200, smoothing=1e-9)(triangle + torch.tensor([5.0, -2.0]), server())
    torch.testing.assert_close(found, triangle.mean(0) + torch.tensor([5.0, -2.0]))
    majority = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [50.0, 0.0], [0.0, -70.0]])
    torch.testing.assert_close(GeometricMedian(steps=200, smoothing=1e-9)(majority, server()), torch.ones(2), rtol=1e-4, atol=1e-4)


def test_the_geometric_median_is_no_worse_than_any_point_nearby():
    rows = torch.randn(7, 3, generator=Key.root(0).torch()).double()
    found = GeometricMedian(steps=500, smoothing=1e-9)(rows, server())

    def cost(point: torch.Tensor) -> float:
        return float((rows - point).square().sum(1).sqrt().sum())

    for move in torch.randn(100, 3, generator=Key.root(1).torch()).double() * 0.05:
        assert cost(found) <= cost(found + move) + 1e-9


def test_fltrust_weighs_by_positive_cosine_at_the_servers_length():
    own = torch.tensor([2.0, 0.0])
    rows = torch.tensor([[4.0, 0.0], [3.0, 3.0], [-5.0, 0.0]])  # cosines 1, 1 / sqrt 2, -1
    trust = torch.tensor([1.0, 0.5**0.5, 0.0])
    scaled = torch.tensor([[2.0, 0.0], [2**0.5, 2**0.5], [-2.0, 0.0]])
    torch.testing.assert_close(FlTrust()(rows, server(reference=own)), trust @ scaled / trust.sum())
    assert FlTrust()(rows[2:], server(reference=own)).tolist() == [0.0, 0.0]


def test_norm_clip_scales_what_is_long():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(NormClip(bound=1.0)(rows, server()), torch.tensor([0.45, 0.6]))
    torch.testing.assert_close(NormClip(bound=None)(torch.cat([rows, rows[1:]]), server()), torch.tensor([0.3, 0.4]))


@pytest.mark.parametrize(
    ("rule", "enough", "words"),
    [
        (Krum(malicious=None, variant="paper"), (7, 2), "n >= 2 f [+] 3"),
        (MultiKrum(malicious=None, kept=None), (7, 2), "n >= 2 f [+] 3"),
        (Median(), (5, 2), "n >= 2 f [+] 1"),
        (TrimmedMean(malicious=None), (5, 2), "n >= 2 f [+] 1"),
        (GeometricMedian(steps=3, smoothing=1e-6), (5, 2), "n >= 2 f [+] 1"),
    ],
)
def test_preconditions_are_said_in_words(rule, enough, words):
    contributors, malicious = enough
    rule.check(contributors, malicious)
    with pytest.raises(ConfigError, match=f"{words}.* n = {contributors - 1} with f = {malicious}"):
        rule.check(contributors - 1, malicious)


def test_what_a_defense_assumes_may_differ_from_the_truth():
    Krum(malicious=1, variant="paper").check(5, 4)
    with pytest.raises(ConfigError, match="f = 3"):
        Krum(malicious=3, variant="paper").check(8, 1)
    with pytest.raises(ConfigError, match=r"keeps at most .* n = 7 with f = 1"):
        MultiKrum(malicious=1, kept=5).check(7, 1)
    MultiKrum(malicious=1, kept=4).check(7, 3)
    with pytest.raises(ConfigError, match="f = 3"):
        MultiKrum(malicious=3, kept=None).check(8, 1)
    with pytest.raises(ConfigError, match="f = 3"):
        TrimmedMean(malicious=3).check(6, 1)


def test_what_is_assumed_decides_how_many_neighbours_count():
    # alone, row 4 is far from all; with f = 0 five rows have three neighbours each, with f = 1 two
    assert MultiKrum(malicious=0, kept=None)(ROWS, server(f=1)).tolist() == ROWS[[0, 1, 2]].mean(0).tolist()
    rows = torch.randn(12, 5, generator=Key.root(3).torch())
    for f in (0, 2):
        scores = [krum_scores(squared_distances(rows), 12 - assumed - 2) for assumed in (f, 4)]
        assert not torch.equal(*scores)
        assert torch.equal(Krum(malicious=f, variant="paper")(rows, server(f=4)), rows[scores[0].argmin()])


def test_distances_over_many_columns_and_of_close_rows_are_exact():
    rows = torch.randn(5, 3000, generator=Key.root(1).torch()) * 1e-2
    expected = torch.cdist(rows.double(), rows.double()) ** 2
    torch.testing.assert_close(squared_distances(rows), expected)
    far = rows.double() + 1e6  # centring keeps what the offset would eat
    torch.testing.assert_close(squared_distances(far), torch.cdist(far, far, compute_mode="donot_use_mm_for_euclid_dist") ** 2, rtol=1e-5, atol=1e-9)


def test_one_weiszfeld_step_from_the_mean_is_as_by_hand():
    rows = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 0.0]])  # the mean is (2, 0), distances are 2, 4, 2
    found = GeometricMedian(steps=1, smoothing=1e-6)(rows, server())
    torch.testing.assert_close(found, torch.tensor([6.0 / 4 / (1 / 2 + 1 / 4 + 1 / 2), 0.0]))
    flat = GeometricMedian(steps=1, smoothing=10.0)(rows, server())
    torch.testing.assert_close(flat, rows.mean(0))


def test_numbers_of_steps_and_bounds_that_mean_nothing_are_refused():
    GeometricMedian(steps=1, smoothing=1e-6)
    for steps, smoothing in ((0, 1e-6), (1, 0.0)):
        with pytest.raises(ConfigError, match="steps is 1 or more, smoothing above 0"):
            GeometricMedian(steps=steps, smoothing=smoothing)
    with pytest.raises(ConfigError, match="a norm above 0"):
        NormClip(bound=0.0)


def test_fltrust_is_the_same_at_any_scale_of_short_updates():
    own, rows = torch.tensor([0.02, 0.01]), torch.tensor([[0.01, 0.02], [0.03, -0.01]])
    torch.testing.assert_close(FlTrust()(rows, server(reference=own)) * 1000, FlTrust()(rows * 1000, server(reference=own * 1000)))


@pytest.mark.parametrize(("contributors", "parameters"), [(1, 3), (2, 1), (7, COLUMNS + 1), (10, 2 * COLUMNS + 37)])
def test_the_middle_is_that_of_a_whole_sort(contributors, parameters):
    rows = (3 * torch.randn(contributors, parameters, generator=Key.root(4).torch())).round()  # many ties
    for drop in {0, (contributors - 1) // 2}:
        assert torch.equal(middle(rows, drop), rows.sort(0).values[drop : contributors - drop])


def test_a_median_of_zeros_has_a_plus_sign_in_whatever_order_they_come():
    signs = torch.tensor([list(each) for each in itertools.product((0.0, -0.0), repeat=5)]).T
    assert not Median()(signs, server()).signbit().any()
    assert not Median()(signs[:4], server()).signbit().any()


def test_the_geometric_median_by_blocks_is_that_of_all_rows_at_once():
    for contributors in (1, 2, 7, 12):
        rows = torch.randn(contributors, COLUMNS + 101, generator=Key.root(contributors).torch())
        whole = rows.double()
        centre = whole.mean(0)
        for _ in range(3):
            weights = 1 / (whole - centre).square().sum(1).sqrt().clamp_min(1e-6)
            centre = weights @ whole / weights.sum()
        assert torch.equal(GeometricMedian(steps=3, smoothing=1e-6)(rows, server()), centre.float())


def test_distances_are_symmetric_to_the_last_digit():
    for contributors in (1, 2, 9, 50):
        squared = squared_distances(torch.randn(contributors, 2500, generator=Key.root(5).torch()))
        assert torch.equal(squared, squared.T)
        assert not squared.diagonal().any()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_no_rule_edits_the_rows(kind):
    rows = torch.randn(9, 30, generator=Key.root(6).torch()).to(kind)
    before = rows.clone()
    krum, many = Krum(malicious=None, variant="paper"), MultiKrum(malicious=None, kept=None)
    for rule in (Median(), TrimmedMean(malicious=None), GeometricMedian(steps=2, smoothing=1e-6), krum, many, NormClip(bound=1.0)):
        rule(rows, server())
        assert torch.equal(rows, before)
