"""The filter that compares each fetched picture with the hash in the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.hashes import HASHES, bits_apart
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class IndexHash:
    """Keep the rows whose picture has the hash that the index lists for it, up to a number of bits.

    Source: the integrity check of Carlini, Jagielski, Choquette-Choo, Paleka, Pearce, Anderson, Terzis, Thomas, Tramer, "Poisoning Web-Scale Training
    Datasets is Practical", IEEE S&P 2024, section 6. With SHA-256 every byte counts, so the check also drops each picture that its owner has compressed
    again or made lighter. A perceptual hash keeps most of these, and some poison. The record has both costs.

    What it cannot find: pictures that were poisoned before the index was made, as when a page is edited before a snapshot; and new captions, since the
    hashes are those of the pictures. A row whose hash is all zeros has none in the index, and is kept.

    On `python -m benchmarks hash_distances` a 3x3 patch moves `phash` by more bits than JPEG of quality 75 does (28x28: 10 against 0 in the median,
    8x8: 12 against 4), and `dhash` and `average_hash` by about as few. So `phash` is the default here, while `near_copies`, which looks for copies with a
    patch, uses `dhash`.

    The suspicion is the number of bits in which the two hashes differ.

    Args:
        hash: "sha256", "phash", "dhash" or "average_hash"; the index needs it (`task.hashes`).
        bits: largest number of different bits of a row that is kept, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    hash: str
    bits: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.hash not in HASHES or self.bits < 0:
            raise ConfigError(f"defense.sanitize: hash={self.hash}, bits={self.bits}; choose one of {', '.join(HASHES)}, and 0 bits or more")

    @property
    def COLUMNS(self) -> tuple[str, ...]:
        """The column of the hashes."""
        return (self.hash,)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return which rows have the hash of the index."""
        listed = data.extra[self.hash]
        apart = torch.where((listed != 0).any(1), bits_apart(HASHES[self.hash](data.inputs), listed), 0)
        return Verdict(keep=apart <= self.bits, suspicion=apart.float())
