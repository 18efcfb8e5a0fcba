"""Feature maps without parameters: each is compared with a picture of known features."""

import math

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.nets.fixed import Beside, Colours, Hog, Moduli, Pixels
from poisonbench.nets.pictures import deskewed, gabor, opponents

PLAIN = {
    "orientations": 8,
    "wavelengths": (4.0, 8.0),
    "window": 7,
    "stride": 3,
    "step": 1,
    "second": False,
    "deskew": False,
    "colours": 0,
    "colour_weight": 0.0,
}
HOG = Hog(bins=9, cell=4, stride=4)
COLOURS = Colours(bins=7, width=0.6, cells=4)
MAPS = [
    Pixels(),
    HOG,
    Hog(bins=9, cell=8, stride=4),
    Beside(first=Pixels(), second=HOG, weight=0.5),
    Moduli(**PLAIN),
    Moduli(**{**PLAIN, "second": True}),
    Moduli(**{**PLAIN, "colours": 4, "colour_weight": 0.5}),
]


def wave(angle: float, length: float, side: int = 28) -> torch.Tensor:
    """A grey picture of a wave, uint8."""
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = 2 * math.pi / length * (across * math.cos(angle) + down * math.sin(angle))
    return (127.5 + 100 * phase.cos()).round().to(torch.uint8)[None, None]


@pytest.mark.parametrize("features", MAPS, ids=lambda features: type(features).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_have_length_one_and_hang_on_their_own_picture_alone(features, channels):
    pictures = torch.randint(0, 256, (6, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together, alone = features(pictures), torch.cat([features(picture[None]) for picture in pictures])
    assert together.norm(dim=1).allclose(torch.ones(6))
    assert together.allclose(alone, atol=1e-5)


def test_filters_see_nothing_in_a_flat_picture():
    bank = gabor(8, 4.0)
    assert bank.sum((1, 2, 3)).abs().max() < 1e-6
    assert bank.abs().sum((1, 2, 3)).allclose(torch.ones(16))


@pytest.mark.parametrize("step", range(8))
def test_a_wave_is_found_by_the_filter_of_its_own_angle_and_length(step):
    features = Moduli(**PLAIN)(wave(math.pi * step / 8, 4.0)).unflatten(1, (16, -1)).mean(2)[0]
    assert int(features.argmax()) == step  # those of the shorter wavelength come first


def test_moduli_do_not_hang_on_contrast():
    picture = torch.randint(0, 100, (1, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert Moduli(**PLAIN)(picture).allclose(Moduli(**PLAIN)(2 * picture), atol=1e-5)


def test_gradients_across_a_step_fall_into_the_bin_of_their_angle():
    picture = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    picture[..., 8:] = 200  # gradients point across: angle 0 lies between the last bin and the first
    cells = Hog(bins=4, cell=4, stride=4)(picture).unflatten(1, (16, -1)).sum(2)[0].unflatten(0, (4, 4)).sum(1)
    assert cells[0] == pytest.approx(float(cells[3]))
    assert cells[1:3].abs().max() < 1e-6


def test_cells_that_overlap_hold_the_blocks_of_cells_that_adjoin():
    picture = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    adjoining = Hog(bins=9, cell=8, stride=8)(picture).unflatten(1, (36, 3, 3))
    overlapping = Hog(bins=9, cell=8, stride=4)(picture).unflatten(1, (36, 5, 5))
    told, wanted = overlapping[:, :, ::2, ::2], adjoining
    assert (told / told.norm(dim=1, keepdim=True)).allclose(wanted / wanted.norm(dim=1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("change", [{"bins": 0}, {"cell": 0}, {"stride": 0}, {"stride": 3}])
def test_histograms_that_cannot_be_built_are_refused(change):
    with pytest.raises(ConfigError, match="hog"):
        Hog(**{"bins": 9, "cell": 4, "stride": 4, **change})


def test_a_colour_votes_for_the_bin_it_lies_in_and_brightness_for_none():
    mean = 85.0
    rise = 255 / 6 * 2**0.5 / 2  # red above and green below the mean: red against green is one bin of seven, yellow against blue none
    picture = torch.tensor([mean + rise, mean - rise, mean])[None, :, None, None].expand(1, 3, 8, 8)
    histogram = Colours(bins=7, width=0.6, cells=1)(picture).square().unflatten(1, (7, 7))[0]
    assert int(histogram.argmax()) == 4 * 7 + 3  # the middle is bin 3
    assert histogram[4, 3] / histogram[3, 3] == pytest.approx(math.exp(0.5 / 0.6**2), rel=1e-3)
    brighter = Colours(bins=7, width=0.6, cells=1)(picture + 50).square().unflatten(1, (7, 7))[0]
    assert brighter.allclose(histogram, atol=1e-4)


def test_pictures_without_colours_have_no_histogram_of_them():
    COLOURS.check((3, 32, 32))
    with pytest.raises(ConfigError, match="no colours"):
        COLOURS.check((1, 28, 28))


@pytest.mark.parametrize("change", [{"bins": 1}, {"width": 0.0}, {"cells": 0}])
def test_histograms_of_colour_that_cannot_be_built_are_refused(change):
    with pytest.raises(ConfigError, match="colours"):
        Colours(**{"bins": 7, "width": 0.6, "cells": 4, **change})


def test_features_side_by_side_are_as_alike_as_both_maps_find_them():
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (one, other), (first, second) = (map_(pictures) for map_ in (HOG, COLOURS))
    told = Beside(first=HOG, second=COLOURS, weight=0.5)(pictures)
    assert float(told[0] @ told[1]) == pytest.approx(float(one @ other + 0.25 * first @ second) / 1.25, rel=1e-5)
    with pytest.raises(ConfigError, match="weight"):
        Beside(first=HOG, second=COLOURS, weight=-1.0)


def test_opponents_turn_the_colours_without_stretching_them():
    pictures = torch.rand(2, 3, 4, 4)
    assert opponents(pictures).norm(dim=1).allclose(pictures.norm(dim=1), atol=1e-6)
    grey = opponents(torch.full((1, 3, 2, 2), 0.5))
    assert grey[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.0, 1.5 / 3**0.5])


def test_a_slanted_stroke_is_put_upright():
    slanted = torch.zeros(1, 1, 28, 28)
    for row in range(4, 24):
        column = 10 + (row - 4) // 2
        slanted[0, 0, row, column : column + 2] = 1.0
    upright = deskewed(slanted)
    across = torch.arange(28.0)
    means = [(upright[0, 0, row] * across).sum() / upright[0, 0, row].sum() for row in range(6, 22)]
    assert max(means) - min(means) < 1.0
    assert sum(means) / len(means) == pytest.approx(13.5, abs=0.3)  # the centre of mass comes to the middle
    assert upright.sum() == pytest.approx(float(slanted.sum()), rel=0.05)


def test_an_empty_picture_stays_empty_and_an_upright_one_as_it_is():
    assert deskewed(torch.zeros(1, 1, 28, 28)).abs().max() == 0
    block = torch.zeros(1, 1, 28, 28)
    block[..., 6:22, 10:18] = 1.0
    assert deskewed(block).allclose(block, atol=1e-5)


@pytest.mark.parametrize("features", [Moduli(**PLAIN), HOG, Beside(first=Pixels(), second=HOG, weight=0.5)])
@pytest.mark.parametrize("shape", [(64,), (1, 4, 4)])
def test_what_is_no_picture_or_too_small_is_refused(features, shape):
    with pytest.raises(ConfigError, match="pictures of"):
        features.check(shape)


@pytest.mark.parametrize("change", [{"orientations": 0}, {"wavelengths": ()}, {"wavelengths": (1.0,)}, {"colours": -1}, {"step": 2}])
def test_filters_that_cannot_be_built_are_refused(change):
    with pytest.raises(ConfigError, match="moduli"):
        Moduli(**{**PLAIN, **change})


def test_moduli_at_every_second_pixel_are_nearly_those_at_every_one():
    picture = torch.nn.functional.interpolate(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), (32, 32), mode="bilinear") * 255
    every, second = (Moduli(**{**PLAIN, "window": 8, "stride": 4, "step": step})(picture) for step in (1, 2))
    assert (every * second).sum(1).min() > 0.99
