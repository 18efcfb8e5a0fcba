"""The joint ranking of several filters, on cases that are worked by hand."""

import json

import pytest
import torch

from poisonbench.core.defense import Finds, Verdict
from poisonbench.core.errors import DataError
from poisonbench.report.joint import CleanRows, Sketch, clean_rows, evidence, joined, strengths, tails, told

FOUR = torch.tensor([0.0, 1.0, 2.0, 3.0]).double()
LABEL = Finds(kind="label error", reads="none", because="")


def test_a_sketch_of_few_rows_has_the_share_of_each_of_them():
    sketch = Sketch.of(FOUR)
    assert sketch.share(torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0, 3.1])).tolist() == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.25, 0.0])
    assert sketch.share(torch.tensor([2.5])).tolist() == pytest.approx([0.375])  # in the middle between 0.5 and 0.25


def test_equal_strengths_have_the_share_of_all_of_them():
    sketch = Sketch.of(torch.tensor([0.0] * 90 + [1.0] * 10))
    assert sketch.share(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize("count", [7, 100, 5000])
def test_a_sketch_agrees_with_counting(count):
    generator = torch.Generator().manual_seed(count)
    values, asked = torch.randn(count, generator=generator).double(), torch.randn(200, generator=generator).double()
    counted = (values[None] >= asked[:, None]).double().mean(1)
    torch.testing.assert_close(Sketch.of(values).share(asked), counted, rtol=0, atol=0.021 + 1 / count)


def test_tasks_have_the_same_weight_and_no_share_is_zero():
    clean = {"one/1": Sketch.of(FOUR), "other/1": Sketch.of(torch.zeros(2)), "other/2": Sketch.of(torch.zeros(2))}
    assert tails(torch.tensor([0.0, 2.0, 9.0]), clean).tolist() == pytest.approx([1.0, 0.5 / 3, 1 / 7])  # 6 rows: both runs of "other" have the same ones


def test_the_evidence_of_a_kind_is_the_mean_over_its_filters():
    found = evidence([torch.tensor([0.1, 1.0]).double(), torch.tensor([0.001, 1.0]).double()])
    torch.testing.assert_close(found.exp(), torch.tensor([100.0, 1.0]).double())  # (0.1 * 0.001) ** -1/2


def test_joined_shares_are_the_smallest_times_their_number():
    assert joined(torch.tensor([[0.01, 0.9], [0.5, 0.8]]).double()).tolist() == pytest.approx([0.02, 1.0])


def test_a_filter_without_a_table_has_no_influence_and_a_task_can_be_left_out():
    sketches = {"digits/100": Sketch.of(FOUR), "wine/100": Sketch.of(10 * FOUR)}
    table = CleanRows(filters={"measured": sketches}, together={})
    verdict = Verdict(keep=torch.ones(2, dtype=torch.bool), suspicion=torch.tensor([0.0, 3.0]))
    verdicts, finds = {"measured": verdict, "new": verdict, "silent": verdict}, {"measured": LABEL, "new": LABEL}
    shares = table.without("wine").shares(verdicts, finds, torch.zeros(2, dtype=torch.int64))
    assert {name: share.tolist() for name, share in shares.items()} == {"measured": [1.0, 0.25]}
    assert table.by_kind(shares, finds)["label error"].tolist() == [1.0, 0.25]  # one filter of a kind: its own share


def test_filters_that_were_measured_together_are_judged_by_their_evidence_and_others_by_bonferroni():
    shares = {name: torch.tensor([0.1, 0.5]).double() for name in ("a", "b")}
    finds = {"a": LABEL, "b": LABEL}
    apart = CleanRows(filters={}, together={"a+c": {"digits/100": Sketch.of(FOUR)}}).by_kind(shares, finds)
    assert apart["label error"].tolist() == pytest.approx([0.2, 1.0])
    both = CleanRows(filters={}, together={"a+b": {"digits/100": Sketch.of(FOUR)}}).by_kind(shares, finds)
    assert both["label error"].tolist() == pytest.approx(Sketch.of(FOUR).share(-shares["a"].log()).tolist())


def test_the_table_that_is_shipped_can_be_read_and_written_again(tmp_path):
    table = clean_rows()
    assert {"spectral", "deep_knn", "knn_outlier", "near_copies"} <= table.filters.keys()
    for sketches in (*table.filters.values(), *table.together.values()):
        for sketch in sketches.values():
            assert (sketch.shares.diff() < 0).all()
            assert (sketch.reached.diff() > 0).all()
    again = tmp_path / "table.json"
    again.write_text(json.dumps(told(table)), encoding="utf-8")
    assert told(clean_rows(again)) == told(table)


def test_a_damaged_table_is_one_sentence(tmp_path):
    (tmp_path / "table.json").write_text('{"filters": ', encoding="utf-8")
    with pytest.raises(DataError, match="no table of clean rows"):
        clean_rows(tmp_path / "table.json")


def test_suspicions_in_other_units_have_the_same_strength():
    values, labels = torch.arange(40.0), torch.zeros(40, dtype=torch.int64)
    torch.testing.assert_close(strengths(values, labels, "data"), strengths(7 * values + 3, labels, "data"))
    assert torch.equal(strengths(values, labels, "given"), values.double())


def test_each_class_has_a_scale_of_its_own():
    values = torch.arange(20.0)
    both, labels = torch.cat([values, 100 * values]), torch.arange(40) // 20
    found = strengths(both, labels, "class")
    torch.testing.assert_close(found[:20], found[20:])


def test_poison_in_a_third_of_a_class_does_not_widen_the_scale():
    clean = torch.linspace(0, 1, 100)
    found = strengths(torch.cat([clean, torch.full((50,), 5.0)]), torch.zeros(150, dtype=torch.int64), "class")
    assert float(found[100:].min()) > 2 * float(found[:100].max())


def test_a_few_large_suspicions_among_equal_ones_are_strong():
    values = torch.cat([torch.zeros(450), torch.linspace(0.1, 1, 545), torch.full((5,), 50.0)])
    found = strengths(values, torch.zeros(1000, dtype=torch.int64), "data")
    assert float(found[-5:].min()) > 20 * float(found[:-5].max()) > 0


def test_equal_suspicions_are_no_evidence():
    assert not strengths(torch.ones(30), torch.zeros(30, dtype=torch.int64), "data").any()


def test_a_flag_is_raised_or_not_whatever_its_height_and_clean_rows_that_raise_it_are_counted():
    flags = strengths(torch.tensor([0.0, 3.0, 128.0, 0.0]), torch.zeros(4, dtype=torch.int64), "flag")
    assert flags.tolist() == [0.0, 1.0, 1.0, 0.0]
    sketch = Sketch.of(flags)
    assert sketch.flagged == 0.5
    assert sketch.share(torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.5]


def test_the_shipped_table_says_how_many_clean_rows_of_a_crawl_differ_from_their_digest():
    """About 10 % of the pictures of the crawl change without an attacker (`task.churn`); no filter of pairs is measured on tasks without pairs."""
    table = clean_rows()
    for name in ("sha256", "perceptual_hash", "alignment"):
        assert {run.partition("/")[0] for run in table.filters[name]} == {"crawl", "crawl_mnist"}
    assert all(0.05 < sketch.flagged < 0.15 for sketch in table.filters["sha256"].values())
    assert not any(run.startswith("crawl") for run in table.filters["deep_knn"])
