"""Pickle streams, written opcode by opcode: no test of ours imports `pickle`."""

from __future__ import annotations

import struct

PROTO, STOP = b"\x80\x04", b"."
PICTURE = b"cPIL.Image\nImage\n"


def text(value: str) -> bytes:
    """Return BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def raw(value: bytes) -> bytes:
    """Return BINBYTES."""
    return b"B" + struct.pack("<I", len(value)) + value


def whole(value: int) -> bytes:
    """Return BININT."""
    return b"J" + struct.pack("<i", value)


def fraction(value: float) -> bytes:
    """Return BINFLOAT."""
    return b"G" + struct.pack(">d", value)


def several(*items: bytes) -> bytes:
    """Return a list."""
    return b"](" + b"".join(items) + b"e"


def together(*items: bytes) -> bytes:
    """Return a tuple."""
    return b"(" + b"".join(items) + b"t"


def mapping(**items: bytes) -> bytes:
    """Return a dict."""
    return b"}(" + b"".join(text(name) + item for name, item in items.items()) + b"u"


def picture(mode: str, width: int, height: int, data: bytes) -> bytes:
    """Return a picture as Pillow pickles it: a new object, then its state."""
    return PICTURE + b")\x81" + several(b"}", text(mode), together(whole(width), whole(height)), b"N", raw(data)) + b"b"


def dtype(code: str, order: str = "<") -> bytes:
    """Return a type of numbers of numpy."""
    state = together(whole(3), text(order), b"N", b"N", b"N", whole(-1), whole(-1), whole(0))
    return b"cnumpy\ndtype\n" + together(text(code), b"\x89", b"\x88") + b"R" + state + b"b"


def array(code: str, shape: tuple[int, ...], data: bytes, module: str = "numpy._core.multiarray") -> bytes:
    """Return an array of numpy."""
    start = f"c{module}\n_reconstruct\n".encode() + together(b"cnumpy\nndarray\n", together(whole(0)), raw(b"b")) + b"R"
    return start + together(whole(1), together(*map(whole, shape)), dtype(code), b"\x89", raw(data)) + b"b"


def stream(value: bytes) -> bytes:
    """Return a whole pickle."""
    return PROTO + value + STOP
