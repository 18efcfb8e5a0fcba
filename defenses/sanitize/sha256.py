"""The filter that compares each fetched picture with the digest in the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.rng import Key
from poisonbench.forms.hashes import HASHES, bits_apart
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class Sha256:
    """Keep the rows whose picture has the SHA-256 digest that the index lists for it.

    Source: the integrity check of Carlini, Jagielski, Choquette-Choo, Paleka, Pearce, Anderson, Terzis, Thomas, Tramer, "Poisoning Web-Scale Training
    Datasets is Practical", IEEE S&P 2024, section 6. Every byte counts, so the check also drops each picture that its owner has compressed again or made
    lighter; the FPR is that cost.

    What it cannot find: pictures that were poisoned before the index was made, as when a page is edited before a snapshot; and new captions on
    such a page, since the digests are those of the pictures. A row whose digest is all zeros has none in the index, and is kept.

    The suspicion is the number of bits in which the two digests differ.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    COLUMNS: ClassVar[tuple[str, ...]] = ("sha256",)
    FINDS: ClassVar[Finds] = Finds(kind="changed", reads="none", because="the bytes differ from the digest in the index", scale="flag", exact=True)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Return which rows have the digest of the index."""
        return within(data, "sha256", 0)


def within(data: Dataset, name: str, bits: int) -> Verdict:
    """Return the verdict that keeps the rows whose hash differs from that of the index in no more than so many bits, and those without one."""
    listed: Tensor = data.extra[name]
    apart = torch.where((listed != 0).any(1), bits_apart(HASHES[name](data.inputs), listed), 0)
    return Verdict(keep=apart <= bits, suspicion=apart.float())
