"""The filter of pictures that an auto-encoder does not draw again, with one whose residuals are known."""

import dataclasses

import pytest
import torch

from defenses.sanitize.residual import Residual, unexplained
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Column
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import Pixels
from poisonbench.forms.shapes import PICTURE
from poisonbench.runner.pipeline import run

RESIDUAL = Residual(part="whole", expected_rate=0.25, margin=1.0)


class Halves:
    """A linear auto-encoder that keeps the mean of the left and of the right half of each channel: an orthogonal projection."""

    @property
    def coding(self):
        return self

    def features(self, inputs):
        return inputs.unflatten(3, (2, -1)).mean((2, 4)).flatten(1)

    def head(self, features):
        return features.unflatten(1, (-1, 1, 2)).repeat_interleave(6, 3).expand(-1, -1, 12, -1)


def pictures() -> torch.Tensor:
    """Return four grey pictures of 12x12: flat, of two flat halves, with stripes of one pixel, and with stripes of three."""
    flat, rows = torch.full((4, 3, 12, 12), 100), torch.arange(12)[:, None]
    flat[1, :, :, 6:] = 160
    flat[2] += 20 * (-1) ** rows
    flat[3] += 10 * (-1) ** (rows // 3)
    return flat.to(torch.uint8)


def judged(victim=None, **fields):
    columns = Dataset.of(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), num_classes=1)
    data = columns.with_column(PICTURE, pictures(), Column(form=Pixels(), role="seen"))
    means = Means(trusted=data, fit=lambda given, draw=0: victim or Halves(), tune=None, truth=torch.zeros(0, dtype=torch.bool))
    return dataclasses.replace(RESIDUAL, **fields).judge(data, means, Key.root(0))


def test_what_a_projection_leaves_is_what_lies_outside_of_its_space():
    left = unexplained(Halves(), pictures())
    assert torch.equal(left[0], torch.zeros(3, 12, 12))
    assert torch.equal(left[1], torch.zeros(3, 12, 12))
    assert torch.equal(left[2, 0, :, 0], torch.tensor([20.0, -20.0]).repeat(6))
    assert torch.equal(left[3, 2, :, 5], torch.tensor([10.0, -10.0]).repeat_interleave(3).repeat(2))


def test_the_picture_with_the_largest_difference_is_dropped():
    verdict = judged()
    assert verdict.suspicion.tolist() == [0, 0, 20, 10]
    assert verdict.keep.tolist() == [True, True, False, True]


def test_means_of_3x3_pixels_keep_wide_stripes_and_lose_fine_ones():
    low, high = judged(part="low"), judged(part="high")
    # fine stripes: 20/3 of either sign inside, (20 + 20 - 20) / 3 at the edge. wide ones: 10 in the middle of each stripe and at the edge, 10/3 elsewhere
    assert low.suspicion.tolist() == pytest.approx([0, 0, 20 / 3, (6 * 10 + 6 * 10 / 3) / 12], abs=1e-5)
    assert high.suspicion.tolist() == pytest.approx([0, 0, (10 * 80 / 3 + 2 * 40 / 3) / 12, 6 * (20 / 3) / 12], abs=1e-5)
    assert low.keep.tolist() == [True, True, True, False]
    assert high.keep.tolist() == [True, True, False, True]


def test_a_model_without_an_auto_encoder_is_incompatible():
    with pytest.raises(Incompatible, match="learner=text_to_image"):
        judged(victim=object())


def test_cloaked_pictures_are_found_and_wrong_captions_are_not(tiny, shared):
    words = ("defense=residual", "threat.budget.count=20")
    assert run(tiny("attack=nightshade", "threat.budget.limit=32", "attack.data.steps=20", *words), shared).metrics["auroc_all"] > 0.9
    assert run(tiny("attack=dirty_label", *words), shared).metrics["auroc_in_class"] < 0.7


def test_rows_without_pictures_skip_the_run(tiny, store):
    record = run(tiny("task=sentiment", "attack=none", "defense=residual"), store)
    assert record.status == "skipped"
    assert "picture" in record.reason


@pytest.mark.parametrize("fields", [{"part": "middle"}, {"margin": -1.0}, {"expected_rate": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(RESIDUAL, **fields)
