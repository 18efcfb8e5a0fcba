import dataclasses

import numpy as np
import pytest
import torch

from defenses.sanitize.random_drop import RandomDrop
from defenses.sanitize.spectral import SpectralSignatures, signature
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Defense, Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.metrics import auroc

PLAIN = SpectralSignatures(expected_rate=0.05, score="paper", classes="suspected", margin=1.5, keep_at_least=0.0)


class Features:
    """A victim whose features are its inputs."""

    def features(self, inputs, layer="penultimate"):
        return inputs


MEANS = Means(trusted=None, fit=lambda data, draw=0: Features(), tune=None, truth=torch.zeros(0, dtype=torch.bool))


def planted(shift: float, poisoned: int = 40) -> tuple[Dataset, torch.Tensor]:
    """Two classes of 400 rows in 20 dimensions; class 1 holds a spike, and its mean lies along that spike."""
    draw = torch.randn(800, 20, generator=Key.root(0).torch())
    labels = torch.arange(800) % 2
    mask = torch.zeros(800, dtype=torch.bool)
    mask[(labels == 1).nonzero()[:poisoned, 0]] = True
    draw[mask, 0] += 10
    draw[labels == 1, 0] -= shift
    return Dataset.of(draw, labels, num_classes=2), mask


def scores(data: Dataset, score: str) -> torch.Tensor:
    return dataclasses.replace(PLAIN, score=score).judge(data, MEANS, Key.root(0)).suspicion


@pytest.mark.parametrize("shift", [0.0, 10.0, 100.0])
def test_the_centred_score_finds_a_planted_spike_whatever_the_class_mean(shift):
    data, mask = planted(shift)
    inside = data.labels == 1
    assert auroc(scores(data, "paper")[inside], mask[inside]) > 0.999


def test_the_uncentred_score_loses_the_spike_when_the_class_mean_is_large():
    data, mask = planted(10.0)
    inside = data.labels == 1
    assert auroc(scores(data, "released_code")[inside], mask[inside]) < 0.1
    data, mask = planted(0.0)
    assert auroc(scores(data, "released_code")[inside], mask[inside]) > 0.999


def test_scores_equal_a_full_svd_of_each_class():
    data, _ = planted(3.0)
    rows = data.inputs[data.labels == 1].double().numpy()
    centred = rows - rows.mean(0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    for centre, projected in ((True, centred), (False, rows)):
        score, share = signature(data.inputs[data.labels == 1], centre=centre)
        np.testing.assert_allclose(score.numpy(), (projected @ right[0]) ** 2, rtol=1e-5, atol=1e-8)
        assert share == pytest.approx(singular[0] ** 2 / (singular**2).sum())


def test_the_suspected_class_loses_its_top_rows_and_the_other_none():
    data, mask = planted(5.0)
    verdict = PLAIN.judge(data, MEANS, Key.root(0))
    assert (~verdict.keep).sum() == 60  # 1.5 x 0.05 x 800
    assert verdict.keep[data.labels == 0].all()
    assert (~verdict.keep[mask]).all()


def test_every_class_loses_rows_as_the_paper_has_it():
    data, mask = planted(5.0)
    verdict = dataclasses.replace(PLAIN, classes="all").judge(data, MEANS, Key.root(0))
    assert [(~verdict.keep[data.labels == label]).sum().item() for label in (0, 1)] == [60, 60]
    assert (~verdict.keep[mask]).all()


def test_each_class_loses_one_and_a_half_times_the_poison_expected_of_it():
    """Classes of 400 and 200 rows, a tenth of each poisoned along a direction of its own, as all-to-all poison is."""
    draw = torch.randn(600, 20, generator=Key.root(0).torch())
    labels = (torch.arange(600) >= 400).long()
    mask = torch.zeros(600, dtype=torch.bool)
    mask[:40] = mask[400:420] = True
    draw[:40, 0] += 10
    draw[400:420, 1] += 10
    data = Dataset.of(draw, labels, num_classes=2)
    found = {classes: ~dataclasses.replace(PLAIN, expected_rate=0.1, classes=classes).judge(data, MEANS, Key.root(0)).keep for classes in ("each", "suspected")}
    assert [int(found["each"][labels == label].sum()) for label in (0, 1)] == [60, 30]  # 1.5 x 0.1 x 400, 1.5 x 0.1 x 200
    assert found["each"][mask].all()
    assert {bool(found["suspected"][mask & (labels == label)].any()) for label in (0, 1)} == {True, False}


def test_a_share_of_the_class_can_be_kept_whatever_is_expected():
    data, _ = planted(5.0)
    verdict = dataclasses.replace(PLAIN, expected_rate=0.4, keep_at_least=0.5).judge(data, MEANS, Key.root(0))
    assert (~verdict.keep).sum() == 200
    assert (~dataclasses.replace(PLAIN, expected_rate=0.4).judge(data, MEANS, Key.root(0)).keep).sum() == 400


def test_poison_that_is_most_of_a_class_looks_like_its_clean_part():
    data, mask = planted(0.0, poisoned=300)
    inside = data.labels == 1
    assert auroc(scores(data, "paper")[inside], mask[inside]) < 0.5


def test_an_expected_rate_of_zero_removes_nothing():
    data, _ = planted(5.0)
    assert dataclasses.replace(PLAIN, expected_rate=0.0).judge(data, MEANS, Key.root(0)).keep.all()


@pytest.mark.parametrize("field", [{"expected_rate": 0.5}, {"expected_rate": -0.1}, {"margin": -1.0}, {"keep_at_least": 1.5}])
def test_values_that_mean_nothing_are_refused(field):
    with pytest.raises(ConfigError, match=r"defense\.sanitize"):
        dataclasses.replace(PLAIN, **field)


def test_a_random_filter_removes_as_many_rows_of_each_class_and_finds_nothing():
    data, mask = planted(5.0)
    like = Defense(sanitize=PLAIN)
    verdict = RandomDrop(like=like).judge(data, MEANS, Key.root(0))
    model = PLAIN.judge(data, MEANS, Key.root(0))
    for label in (0, 1):
        rows = data.labels == label
        assert (~verdict.keep[rows]).sum() == (~model.keep[rows]).sum()
    inside = data.labels == 1
    assert 0.35 < auroc(verdict.suspicion[inside], mask[inside]) < 0.65
    assert not torch.equal(verdict.keep, model.keep)
    assert not torch.equal(verdict.keep, RandomDrop(like=like).judge(data, MEANS, Key.root(1)).keep)


def test_a_random_filter_needs_one_to_match():
    data, _ = planted(5.0)
    with pytest.raises(ConfigError, match="matches a filter"):
        RandomDrop(like=Defense()).judge(data, MEANS, Key.root(0))
