"""Deep partition aggregation: many models on disjoint parts of the rows, and a vote.

Shape letters: N rows, M test rows, K classes, k parts, R members in all, H partitions, d members that a partition reaches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, cast

import torch
from torch import Tensor

from defenses.train.committee import Committee
from poisonbench.core.data import Dataset
from poisonbench.core.electorate import Change
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Combine, Learner, Victim
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES

Split: TypeAlias = Literal["salted", "pixel_sum", "sorted"]


@dataclass(frozen=True, kw_only=True)
class Parted:
    """Base class of defenses that divide the rows into disjoint parts.

    Args:
        parts: k, 1 or more.
        member: recipe of the members; null: the recipe of the run.
    """

    VERSION: ClassVar[int] = 1
    parts: int
    member: Learner | None

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.parts < 1:
            raise ConfigError(f"defense.train.parts={self.parts}: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Dpa(Parted):
    """Train one member on each of k disjoint parts; the answer is the plurality of their votes.

    Source: Levine and Feizi, "Deep Partition Aggregation: Provable Defense against General Poisoning Attacks", ICLR 2021.

    A row's part is a hash of its inputs, salted by the seed; the label has no effect. So an inserted, deleted or relabelled row touches one part, and
    a row with edited inputs touches two. Inside a part, rows are sorted by the hash and numbered from 0, so a member's data and random draws depend
    only on its part. A part without rows votes for class 0.

    Args:
        parts: k, 1 or more.
        member: recipe of the members; null: the recipe of the run.
        split: how a row's part is chosen: "salted" (BLAKE2b; an attacker cannot aim at a part) or "pixel_sum" (paper: the sum of all pixels mod
            k).
    """

    VERSION: ClassVar[int] = 1
    split: Literal["salted", "pixel_sum"] = field(default="salted", metadata={"spec": "changed"})

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts, split=self.split)


@dataclass(frozen=True, kw_only=True)
class Ensemble(Committee):
    """The learner that trains the members.

    Source: Levine and Feizi, ICLR 2021; with `spread` above 1, Wang, Levine and Feizi, ICML 2022; with `rule` "run_off", Rezaei, Banihashem, Chegini
    and Feizi, ICML 2023.

    Args:
        member: recipe of each member.
        parts: k.
        spread: d: rows are hashed into H = k d partitions, and each partition is given to d of R = k d members.
        split: how a row's partition is chosen: "salted" and "pixel_sum" as in `Dpa`; "sorted" as in `SsDpa`.
        rule: "plurality" of the votes; or "run_off": of the two classes with the most votes, the one that more members score above the other.
    """

    VERSION: ClassVar[int] = 1
    MECHANISM: ClassVar[bool] = True
    parts: int
    spread: int = field(default=1, metadata={"spec": "changed"})
    split: Split = field(default="salted", metadata={"spec": "changed"})

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that the inputs fit the split, that there is a row for each part, and that the member accepts its rows.

        Raises:
            ConfigError: what to change.
        """
        if self.split == "pixel_sum" and data.form.NAME not in PICTURES:
            raise ConfigError("defense.train.split=pixel_sum is for pictures; use salted")
        if self.parts > len(data):
            raise ConfigError(f"defense.train.parts={self.parts}: there are {len(data)} training rows; give each part at least one")
        self.member.check(data.take(torch.arange(max(1, len(data) // self.parts))), combine)

    @property
    def size(self) -> int:
        """Number of members."""
        return self.parts * self.spread

    def divided(self, data: Dataset, rng: Key) -> list[Dataset]:
        """Return the rows of each member."""
        partitions = divided(data, self.size, rng.child("parts"), self.split)
        return partitions if self.spread == 1 else [_joined(partitions, place, self._offsets(rng)) for place in range(self.size)]

    def facts_of(self, data: Dataset, rng: Key, members: Sequence[Victim]) -> dict[str, object]:
        """Return the offsets of a spread above 1."""
        return {"offsets": list(self._offsets(rng))} if self.spread > 1 else {}

    def reach(self, facts: Mapping[str, object]) -> Tensor:
        """Return (H, d) int64, the members that are trained on each partition."""
        offsets = torch.tensor(cast("Sequence[int]", facts.get("offsets", [0])))
        return (torch.arange(self.size)[:, None] + offsets) % self.size

    def touched(self, change: Change) -> int:
        """Return how many partitions one change touches.

        Raises:
            ConfigError: the change may move every row.
        """
        if self.split == "sorted" and change != "flip":
            raise ConfigError(f"defense.certify.change={change}: in a sorted split an inserted, deleted or edited row moves all others; use flip")
        return 2 if change == "edit" else 1

    def _offsets(self, rng: Key) -> tuple[int, ...]:
        """Return the d distinct members that a partition reaches, relative to its own number."""
        return (0,) if self.spread == 1 else tuple(rng.child("offsets").pick(torch.arange(self.size), self.spread).tolist())


def divided(data: Dataset, parts: int, salt: Key, split: Split = "salted") -> list[Dataset]:
    """Return the parts of the rows, each sorted by its inputs or their hash, and numbered from 0."""
    names, numbers = _named(data, salt) if split == "salted" else _by_pixels(data, split)
    tied = [names[place] + int(data.labels[place]).to_bytes(8, "big") for place in range(len(data))]
    order = sorted(range(len(data)), key=tied.__getitem__)
    places: list[list[int]] = [[] for _ in range(parts)]
    for rank, place in enumerate(order):
        places[(numbers[place] if numbers else rank) % parts].append(place)
    return [numbered(data.take(torch.tensor(rows, dtype=torch.int64))) for rows in places]


def _named(data: Dataset, salt: Key) -> tuple[list[bytes], list[int]]:
    """Return each row's salted hash as bytes, to sort by, and as a number."""
    secret = bytes.fromhex(salt.digest)
    hashes = [hashlib.blake2b(row.numpy().tobytes(), digest_size=16, key=secret).digest() for row in data.inputs.contiguous()]
    return hashes, [int.from_bytes(name, "big") for name in hashes]


def _by_pixels(data: Dataset, split: Split) -> tuple[list[bytes], list[int]]:
    """Return each row's values in reverse order as bytes, as numpy's lexsort in the published code sorts pixels, and its sum of pixels.

    For numbers of more than one byte the order of the bytes is not that of the numbers, but it depends on the inputs alone, which is all that
    the certificate needs.
    """
    rows = data.inputs.contiguous().flatten(1)
    names = [row.flip(0).numpy().tobytes() for row in rows]
    if split == "pixel_sum":
        return names, rows.long().sum(1).tolist()
    if len(set(names)) < len(names):
        raise ConfigError("defense.train.split=sorted: some rows have equal inputs, whose order would depend on their labels; use salted")
    return names, []


def _joined(partitions: Sequence[Dataset], place: int, offsets: Sequence[int]) -> Dataset:
    """Return the rows of a member: those of all partitions that reach it."""
    first, *others = (partitions[(place - offset) % len(partitions)] for offset in offsets)
    for other in others:
        first = first.append(other)
    return numbered(first)


def numbered(part: Dataset) -> Dataset:
    """Return the rows with ids from 0, so that a member's random draws depend only on its own rows."""
    rows = torch.arange(len(part))
    return part.with_columns(part.columns | {"ids": rows, "owners": torch.zeros_like(rows)})
