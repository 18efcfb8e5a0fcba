"""Decode files from untrusted sources with other libraries; every failure becomes one sentence."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from poisonbench.core.errors import DataError, PoisonbenchError

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = 2**26  # of one picture, about 8,000 a side; a larger picture is refused before it is decoded

NOTES = "poisonbench: what was changed"  # key in a picture's info: what the conversion changed, as a tuple of phrases
CLEAR = "have transparent pixels, of which only the colour is kept"
DEEP = "have 16 bits per channel, which are divided by 257 to fit 8"
PALETTE = "use a palette, whose colours are read"
FRAMES = "have several frames, of which only the first is read"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # Pillow logs the errors that it also raises


@contextmanager
def reading(name: object, kind: str, advice: str = "fetch it again") -> Iterator[None]:
    """Turn any exception of a decoder into one sentence.

    Args:
        name: what is read, such as its path.
        kind: what it should be.
        advice: what to do if it is not.

    Raises:
        DataError: the block raised an exception.
    """
    try:
        yield
    except PoisonbenchError:
        raise
    except Exception as error:
        raise DataError(f"{name} cannot be read as {kind} ({error}); {advice}") from error


def picture(content: bytes, mode: Literal["L", "RGB", "RGBA"], name: str) -> Image:
    """Decode a picture; `info[NOTES]` of the result says what the conversion changed or left out.

    Args:
        content: bytes of a file.
        mode: the channels to convert to, 8 bits each; 16 bits are scaled.
        name: what error messages call it.

    Raises:
        DataError: bytes that are not a picture, are damaged, have 32 bits per channel, or declare more than PIXELS pixels.
    """
    from PIL import Image

    with reading(name, "an image", "remove or replace it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these are about files that can be decoded
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > PIXELS:
                raise DataError(f"{name} declares {opened.width}x{opened.height} pixels; at most {PIXELS:,} are decoded; scale the picture down first")
            return eight_bits(opened, mode)


def eight_bits(opened: Image, mode: Literal["L", "RGB", "RGBA"]) -> Image:
    """Return a picture with these channels of 8 bits; `info[NOTES]` says what that changed or left out.

    Raises:
        ValueError: 32 bits per channel.
    """
    if opened.mode in ("I", "F"):
        raise ValueError("it has 32 bits per channel and does not say which value is white: scale it to 8 bits first")
    notes = _notes(opened, mode)
    converted = (_scaled(opened) if DEEP in notes else opened).convert(mode)
    converted.info[NOTES] = notes
    return converted


def _notes(opened: Image, mode: str) -> tuple[str, ...]:
    """Return what a conversion to `mode` changes or leaves out."""
    clear = mode != "RGBA" and opened.has_transparency_data and opened.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    changes = {CLEAR: clear, DEEP: opened.mode.startswith("I;16"), PALETTE: opened.mode == "P", FRAMES: getattr(opened, "n_frames", 1) > 1}
    return tuple(note for note, holds in changes.items() if holds)


def _scaled(opened: Image) -> Image:
    """Scale 0..65535 to 0..255, rounded; Pillow's own conversion would clip every value at 255."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(((np.asarray(opened).astype(np.uint32) + 128) // 257).astype(np.uint8))
