"""Hashes of pictures: exact digests, and perceptual ones, which change little when a picture does.

Shape letters: N pictures, C channels, H height, W width, B bits of a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

SIZE = 64  # bits of a perceptual hash


def digests(pixels: Tensor) -> Tensor:
    """Return (N, 32) uint8, the SHA-256 of the pixels of each (N, C, H, W) picture."""
    found = [hashlib.sha256(row.contiguous().numpy().tobytes()).digest() for row in pixels]
    return torch.frombuffer(bytearray(b"".join(found)), dtype=torch.uint8).view(-1, 32) if found else torch.zeros(0, 32, dtype=torch.uint8)


def perceptual(pixels: Tensor, name: str) -> Tensor:
    """Return (N, 64) bool, a perceptual hash of each picture, by `imagehash`.

    Args:
        pixels: (N, C, H, W) uint8; of more than three channels the first three are read, of two the first.
        name: "dhash", "phash" or "average_hash".
    """
    import imagehash
    from PIL import Image

    hashed = getattr(imagehash, name)
    pictures = (value[0].numpy() if len(value) < 3 else value[:3].permute(1, 2, 0).contiguous().numpy() for value in pixels)
    bits = [hashed(Image.fromarray(picture)).hash.ravel() for picture in pictures]
    return torch.from_numpy(np.stack(bits)) if bits else torch.zeros(0, SIZE, dtype=torch.bool)


def _packed(name: str) -> Callable[[Tensor], Tensor]:
    def hashed(pixels: Tensor) -> Tensor:
        return torch.from_numpy(np.packbits(perceptual(pixels, name).numpy(), axis=1))

    return hashed


PERCEPTUAL: Mapping[str, Callable[[Tensor], Tensor]] = {name: _packed(name) for name in ("dhash", "phash", "average_hash")}
HASHES: Mapping[str, Callable[[Tensor], Tensor]] = {"sha256": digests, **PERCEPTUAL}
"""By its name: from (N, C, H, W) pictures to (N, B / 8) uint8."""


def bits_apart(one: Tensor, other: Tensor) -> Tensor:
    """Return (N,) int64, the number of bits in which the hashes (N, B / 8) uint8 of two columns differ."""
    return torch.from_numpy(np.unpackbits((one ^ other).numpy(), axis=1).sum(1, dtype=np.int64))
