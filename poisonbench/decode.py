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

CLEAR = "poisonbench: some pixels are transparent"  # of a picture's info, where the channels that it was converted to say nothing of it

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
    """Decode a picture.

    Args:
        content: bytes of a file.
        mode: the channels to convert to.
        name: what a refusal calls it.

    Raises:
        DataError: bytes that are no picture, are damaged, hold more than 8 bits a channel, or say that they hold more than PIXELS.
    """
    from PIL import Image

    with reading(name, "an image", "remove or replace it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a decoder thinks of a file that it can read
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > PIXELS:
                raise DataError(f"{name} says that it is {opened.width}x{opened.height}; at most {PIXELS:,} pixels are decoded, scale it down first")
            if opened.mode[0] in "IF":
                raise DataError(f"{name} holds more than 8 bits a channel, which would be cut off at 255; scale it to 8 bits first")
            converted = opened.convert(mode)
            converted.info[CLEAR] = mode != "RGBA" and opened.has_transparency_data and opened.convert("RGBA").getchannel("A").getextrema() != (255, 255)
            return converted
