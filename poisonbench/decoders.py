"""Files that anybody may have made, through decoders that are not ours: a value, or one sentence."""

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

PIXELS = 2**26  # of one picture, about 8,000 a side; a file of more is refused before any is decoded

NOTES = "poisonbench: what was changed"  # of a picture's info: what the conversion left out or scaled, as tuple of sentences
CLEAR = "have transparent pixels, of which the colour alone is kept"
DEEP = "hold 16 bits a channel, which are divided by 257 to fit 8"
PALETTE = "hold numbers into a palette; the colours that it lists are read"
FRAMES = "hold several frames, of which the first is read"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # it logs what it also raises


@contextmanager
def reading(name: object, kind: str, advice: str = "fetch it again") -> Iterator[None]:
    """Turn whatever a decoder raises over damaged bytes into one sentence.

    Args:
        name: what is read, such as its path.
        kind: what it should be.
        advice: what to do if it is not.

    Raises:
        DataError: the block raised.
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
        name: what a refusal calls it.

    Raises:
        DataError: bytes that are no picture, are damaged, hold 32 bits a channel, or say that they hold more than PIXELS.
    """
    from PIL import Image

    with reading(name, "an image", "remove or replace it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a decoder thinks of a file that it can read
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > PIXELS:
                raise DataError(f"{name} says that it is {opened.width}x{opened.height}; at most {PIXELS:,} pixels are decoded, scale it down first")
            return eight_bits(opened, mode)


def eight_bits(opened: Image, mode: Literal["L", "RGB", "RGBA"]) -> Image:
    """Return a picture with these channels of 8 bits; `info[NOTES]` says what that changed or left out.

    Raises:
        ValueError: 32 bits a channel.
    """
    if opened.mode in ("I", "F"):
        raise ValueError("it holds 32 bits a channel, and nothing says which value is white: scale it to 8 bits first")
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
    """Scale 0..65535 to 0..255, rounded; Pillow's own conversion would cut everything off at 255."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(((np.asarray(opened).astype(np.uint32) + 128) // 257).astype(np.uint8))
