"""The values that a pickle may contain besides plain ones: pictures, and numpy's arrays of numbers. They are made from their bytes, and nothing is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.generic]
BYTES, AXES = 2**30, 4  # limits: bytes of a stream, axes of an array
SIDE = 2**13  # pixels of a side of a picture
CHANNELS = {"L": 1, "RGB": 3}
NUMBERS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
ARRAYS = ("numpy._core.multiarray", "numpy.core.multiarray")  # the second up to numpy 1
KNOWN: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("PIL.Image", "Image"): "picture",
        ("_codecs", "encode"): "encode",
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): "dtype",
        **{(module, "_reconstruct"): "reconstruct" for module in ARRAYS},
        **{(module, "scalar"): "scalar" for module in ARRAYS},
        **{(module.replace("multiarray", "numeric"), "_frombuffer"): "frombuffer" for module in ARRAYS},
    }
)


class Refused(ValueError):
    """Something in a stream that is not read, as the rest of a sentence."""


@dataclass(frozen=True)
class Picture:
    """A picture as Pillow pickles it.

    Args:
        mode: "L" or "RGB".
        size: width and height.
        data: a byte for each pixel and channel, row by row.
    """

    mode: str
    size: tuple[int, int]
    data: bytes

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(C, H, W) uint8."""
        width, height = self.size
        return np.frombuffer(self.data, dtype=np.uint8).reshape(height, width, CHANNELS[self.mode]).transpose(2, 0, 1)


@dataclass(frozen=True)
class Name:
    """One of the names of `KNOWN`; it stands for nothing that could be called."""

    what: str


@dataclass(eq=False)
class Blank:
    """An array, a type of numbers or a picture before its state is known."""

    what: str
    code: str = ""
    order: str = "="


def _encoded(arguments: tuple[object, ...]) -> bytes:
    """Return bytes that protocol 2 writes as a text."""
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1")
    raise Refused("encodes a text in another way than latin1")


def _dtype(arguments: tuple[object, ...]) -> Blank:
    match arguments:
        case (str(code), 0 | False, 1 | True) if code in NUMBERS:
            return Blank("dtype", code)
    raise Refused("has an array of something else than numbers")


def _reconstructed(arguments: tuple[object, ...]) -> Blank:
    if arguments != (Name("ndarray"), (0,), b"b"):
        raise Refused("makes an array in an unknown way")
    return Blank("array")


def _scalar(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (Blank(what="dtype") as kind, bytes(data)):
            return _numbers(kind, (), data).item()
    raise Refused("has a number of numpy in an unknown form")


def _from_buffer(arguments: tuple[object, ...]) -> Array:
    match arguments:
        case (bytes(data), Blank(what="dtype") as kind, tuple(shape), "C" | "F" as order):
            return _numbers(kind, shape, data, fortran=order == "F")
    raise Refused("has an array in an unknown form")


def _ordered(blank: Blank, state: object) -> Blank:
    match state:
        case (3, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
            blank.order = order
            return blank
    raise Refused("has an array of something else than numbers")


def _array(blank: Blank, state: object) -> Array:
    match state:
        case (1, tuple(shape), Blank(what="dtype") as kind, bool(fortran), bytes(data)):
            return _numbers(kind, shape, data, fortran=fortran)
    raise Refused("has an array in an unknown form")


def _numbers(kind: Blank, shape: tuple[object, ...], data: bytes, *, fortran: bool = False) -> Array:
    sides = [side for side in shape if isinstance(side, int) and not isinstance(side, bool) and 0 <= side <= BYTES]
    numbers = np.dtype(kind.order.replace("|", "=") + kind.code)
    if len(sides) < len(shape) or len(sides) > AXES or math.prod(sides) * numbers.itemsize != len(data):
        raise Refused("has an array whose shape does not fit its bytes")
    return np.frombuffer(data, dtype=numbers).reshape(sides, order="F" if fortran else "C")


def _picture(blank: Blank, state: object) -> Picture:
    match state:
        case [dict(), str(mode), (int(width), int(height)), None, bytes(data)] if mode in CHANNELS:
            if 0 < width <= SIDE and 0 < height <= SIDE and len(data) == width * height * CHANNELS[mode]:
                return Picture(mode, (width, height), data)
            raise Refused("has a picture whose size does not fit its bytes")
    raise Refused("has a picture that is neither grey nor of three colours, or has a palette")


MADE: Mapping[str, Callable[[tuple[object, ...]], object]] = MappingProxyType(
    {"encode": _encoded, "dtype": _dtype, "reconstruct": _reconstructed, "scalar": _scalar, "frombuffer": _from_buffer}
)
BUILT: Mapping[str, Callable[[Blank, object], object]] = MappingProxyType({"dtype": _ordered, "array": _array, "picture": _picture})
