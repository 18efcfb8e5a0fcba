"""The filter that compares each fetched picture with a perceptual hash in the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.sanitize.sha256 import within
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.hashes import PERCEPTUAL, SIZE
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class PerceptualHash:
    """Keep the rows whose picture has nearly the perceptual hash that the index lists for it.

    Source: the check of an index of Carlini et al., IEEE S&P 2024, section 6, with a hash that changes little when a picture does, by the library
    `imagehash`. It keeps most pictures that were compressed again or made lighter, which `sha256` drops, and some poison.

    On `python -m benchmarks hash_distances` a 3x3 patch moves `phash` by more bits than JPEG of quality 75 does (28x28: 10 against 0 in the median,
    8x8: 12 against 4). At 28x28 and 32x32 it moves `dhash` and `average_hash` by about as few; at 8x8 `average_hash` separates the two as well. So
    `phash` is the default here, while `near_copies`, which looks for copies with a patch, uses `dhash`. The limit of 6 bits was chosen on those training
    rows. An attacker who knows the hash can choose a trigger that moves it little.

    A hash whose bits are all zero counts as missing, and its row is kept. Black pictures have such a hash, and with `dhash` so have pictures that get
    darker to the right.

    What else it cannot find is stated at `sha256`. The suspicion is the number of bits in which the two hashes differ.

    Args:
        hash: "phash", "dhash" or "average_hash"; the index needs it (`task.hashes`).
        bits: largest number of different bits of a row that is kept, 0 to 63.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    FINDS: ClassVar[Finds] = Finds(kind="changed", reads="none", because="the picture looks different from the one that the index was made from")
    hash: str
    bits: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.hash not in PERCEPTUAL or not 0 <= self.bits < SIZE:
            raise ConfigError(f"defense.sanitize: hash={self.hash}, bits={self.bits}; choose one of {', '.join(PERCEPTUAL)}, and 0 to {SIZE - 1} bits")

    @property
    def COLUMNS(self) -> tuple[str, ...]:
        """The column of the hashes."""
        return (self.hash,)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return which rows have nearly the hash of the index."""
        return within(data, self.hash, self.bits)
