"""The border in front of decoders that are not ours."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.decoders import DEEP, FRAMES, NOTES, PALETTE, PIXELS, picture, reading


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_of_as_many_pixels_as_are_decoded_is_one_and_a_larger_one_is_refused():
    side = 2**13
    assert picture(encoded(Image.new("1", (PIXELS // side, side))), "L", "a.png").size == (PIXELS // side, side)
    with pytest.raises(DataError, match=rf"a.png declares {PIXELS // side + 1}x{side} pixels; at most 67,108,864 are decoded"):
        picture(encoded(Image.new("1", (PIXELS // side + 1, side))), "L", "a.png")


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_a_channel_are_refused(kind):
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 256, dtype=kind)).save(stream, "TIFF")
    with pytest.raises(DataError, match="has 32 bits per channel"):
        picture(stream.getvalue(), "L", "a.tif")


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_16_bits_a_channel_are_scaled_and_the_picture_says_so(kind):
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 128, 129], [257, 32896, 65535]], dtype=np.uint16)).save(stream, kind)
    scaled = picture(stream.getvalue(), "RGB", "a")
    assert np.asarray(scaled)[..., 2].tolist() == [[0, 0, 1], [1, 128, 255]]
    assert scaled.info[NOTES] == (DEEP,)


def test_a_palette_is_read_by_its_colours_and_the_picture_says_so():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    read = picture(encoded(image), "RGB", "a.png")
    assert read.getpixel((1, 1)) == (10, 200, 30)
    assert read.info[NOTES] == (PALETTE,)


def test_further_frames_are_left_out_and_the_picture_says_so():
    stream = io.BytesIO()
    Image.new("L", (2, 2), 9).save(stream, "TIFF", save_all=True, append_images=[Image.new("L", (2, 2), 99)])
    read = picture(stream.getvalue(), "L", "a.tif")
    assert read.getpixel((0, 0)) == 9
    assert read.info[NOTES] == (FRAMES,)


def test_bytes_that_raise_are_one_sentence():
    dice, whole = random.Random(0), encoded(Image.new("RGB", (9, 9)))
    for content in (b"", dice.randbytes(100), whole[:8] + dice.randbytes(100), *(whole[:length] for length in (8, 20, 33, 45))):
        with pytest.raises(DataError, match=r"a.png cannot be read as an image \(.*\); remove or replace it"):
            picture(content, "RGB", "a.png")


@pytest.mark.parametrize("error", [ValueError("of another form"), KeyError("of another form"), MemoryError("of another form"), SyntaxError("of another form")])
def test_whatever_a_decoder_raises_is_one_sentence(error):
    with pytest.raises(DataError, match=r"file cannot be read as parquet \(.*of another form.*\); fetch it again"), reading("file", "parquet"):
        raise error


def test_a_sentence_of_our_own_passes_the_border_as_it_is():
    with pytest.raises(ConfigError, match=r"^say it otherwise$"), reading("file", "parquet"):
        raise ConfigError("say it otherwise")


def test_an_interrupt_is_no_damaged_file():
    with pytest.raises(KeyboardInterrupt), reading("file", "parquet"):
        raise KeyboardInterrupt
