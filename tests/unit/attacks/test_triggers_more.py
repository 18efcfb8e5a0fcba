"""Blended, SIG and WaNet, by hand."""

import math

import pytest
import torch

from attacks.backdoor.blended import Blend, Blended
from attacks.backdoor.sig import Sig, Sinusoid
from attacks.backdoor.wanet import WaNet, Warp, field
from attacks.backdoor.wanet_training import WaNetStep
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key
from tests.unit.attacks.worlds import images, world

WARP = {"control": 4, "strength": 0.5, "pattern_seed": 0}


def test_a_blend_is_a_weighted_mean_rounded():
    blend = Blend(pattern=torch.full((1, 2, 2), 250, dtype=torch.uint8), alpha=0.2)
    assert blend(torch.full((1, 1, 2, 2), 101, dtype=torch.uint8)).unique().tolist() == [131]  # 80.8 + 50


def test_blended_relabels_others_and_its_pattern_is_the_same_for_every_seed():
    rows = images()
    one, other = (Blended(image=None, pattern_seed=0, alpha=0.2, target=1).poison(world(rows, rate=0.3), Key.root(seed)) for seed in (0, 1))
    assert torch.equal(one.goal.trigger.pattern, other.goal.trigger.pattern)
    assert (rows.labels[one.mask] != 1).all()
    assert (one.data.labels[one.mask] == 1).all()
    with pytest.raises(ConfigError, match="alpha"):
        Blended(image=None, pattern_seed=0, alpha=0.0, target=0)


def test_blended_reads_a_picture(tmp_path):
    from PIL import Image

    from poisonbench.core.files import File

    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "p.png")
    pattern = Blended(image=File(str(tmp_path / "p.png")), pattern_seed=0, alpha=0.2, target=0).pattern((3, 8, 8))
    assert pattern.shape == (3, 8, 8)
    assert pattern.amax((1, 2)).tolist() == [10, 20, 30]


def test_a_sinusoid_is_the_formula_and_is_cut_to_pixels():
    wave = Sinusoid(delta=40.0, frequency=1.0)(torch.full((1, 1, 2, 8), 100, dtype=torch.uint8))
    expected = [round(100 + 40 * math.sin(2 * math.pi * j / 8)) for j in range(8)]
    assert wave[0, 0, 0].tolist() == wave[0, 0, 1].tolist() == expected
    assert Sinusoid(delta=40.0, frequency=1.0)(torch.full((1, 1, 1, 8), 250, dtype=torch.uint8)).max() == 255


def test_sig_poisons_its_class_alone_and_changes_no_label():
    rows = images()
    poisoned = Sig(delta=40.0, frequency=6.0, target=2).poison(world(rows, rate=0.3, relabel=False), Key.root(0))
    assert torch.equal(poisoned.data.labels, rows.labels)
    assert (rows.labels[poisoned.mask] == 2).all()
    with pytest.raises(ConfigError, match="only 10 can be poisoned"):
        Sig(delta=40.0, frequency=6.0, target=2).poison(world(rows, rate=0.4, relabel=False), Key.root(0))


def test_a_warp_of_no_strength_moves_nothing_and_a_field_moves_every_image_alike():
    rows = images().inputs
    assert torch.equal(Warp(control=4, strength=1e-9, pattern_seed=0)(rows), rows)
    strong = Warp(control=4, strength=1.0, pattern_seed=0)
    assert torch.equal(strong(rows)[3:4], strong(rows[3:4]))
    assert not torch.equal(strong(rows), rows)
    grid = field(strong, 8, 8)
    assert grid.shape == (1, 8, 8, 2)
    assert grid.abs().max() <= 1


def test_a_warp_samples_where_its_field_points():
    warp = Warp(control=2, strength=2.0, pattern_seed=1)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # a pixel's value is its column
    moved = warp.moved(ramp, torch.zeros(1))
    torch.testing.assert_close(moved[0, 0], (field(warp, 8, 8)[0, :, :, 0] + 1) * 7 / 2, rtol=1e-4, atol=1e-4)


def test_wanet_spends_its_budget_on_triggered_and_cover_rows():
    rows = images(rows=90)
    poisoned = WaNet(**WARP, cover_ratio=2.0, target=0).poison(world(rows, rate=0.3), Key.root(0))
    relabelled = poisoned.data.labels != rows.labels
    assert int(poisoned.mask.sum()) == 27
    assert int(relabelled.sum()) == 9
    cover = poisoned.mask & ~relabelled
    assert (rows.labels[cover] != 0).all()
    trigger = poisoned.goal.trigger
    assert torch.equal(poisoned.data.inputs[relabelled], trigger(rows.inputs[relabelled]))
    assert not torch.equal(poisoned.data.inputs[cover], trigger(rows.inputs[cover]))


def test_the_training_of_wanet_warps_a_share_of_each_batch():
    rows = images(rows=60)
    step = WaNetStep(like=WaNet(**WARP, cover_ratio=2.0, target=0))
    batch = Batch(inputs=rows.inputs, labels=rows.labels, ids=rows.ids)
    moment = Moment(module=torch.nn.Identity(), plan=Plan(rows=60, epochs=1, steps=1, shape=(1, 8, 8)), epoch=0, step=0, rng=Key.root(0), allowed=18)
    after = step.rows(batch, moment)
    assert int((after.labels != rows.labels).sum()) == 6
    assert int((after.inputs != batch.inputs).flatten(1).any(1).sum()) == 18
    assert torch.equal(batch.labels, rows.labels)
