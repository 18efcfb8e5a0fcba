import pytest
import torch

from defenses.train.shortcut_squeezing import SqueezeStep, greyscale, jpeg, shallow
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run


def test_grey_is_the_luma_in_every_channel():
    grey = greyscale(torch.tensor([100.0, 200.0, 50.0]).view(1, 3, 1, 1))
    torch.testing.assert_close(grey.flatten(), torch.full((3,), 29.9 + 117.4 + 5.7))
    one = torch.rand(2, 1, 4, 4)
    assert torch.equal(greyscale(one), one)


def test_two_bits_leave_four_levels():
    levels = shallow(torch.arange(256.0).view(1, 1, 16, 16), 2).unique()
    assert levels.tolist() == [0.0, 85.0, 170.0, 255.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_a_flat_picture_and_smooths_fine_noise(channels):
    flat = torch.full((1, channels, 16, 16), 120.0)
    assert (jpeg(flat, 10) - flat).abs().max() <= 8
    noise = 8 * torch.randn(4, channels, 32, 32, generator=Key.root(0).torch())
    noisy = (120 + noise).clamp(0, 255)
    assert jpeg(noisy, 10).std() < 0.7 * noisy.std()
    assert (greyscale(jpeg(noisy, 100)) - greyscale(noisy.round())).abs().mean() < 2  # colour is stored at half the resolution


def test_training_on_compressed_pictures_still_learns(tiny, store):
    assert run(tiny("defense=shortcut_squeezing", "defense.train.step.how=bit_depth"), store).metrics["c_acc"] > 0.9


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="quality"):
        SqueezeStep(how="jpeg", quality=0, bits=2)
