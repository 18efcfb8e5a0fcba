"""Deep partition aggregation: many models on disjoint parts of the rows, and a vote.

Shape letters: N rows, M test rows, K classes, k members.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Combine, Learner, State, Step, Trained, Victim, fit_each
from poisonbench.core.rng import Key

DROPPED = frozenset({"attack.update", "defense.aggregate", "defense.repair"})


@dataclass(frozen=True, kw_only=True)
class Dpa:
    """Train one member on each of k disjoint parts; the answer is the plurality of their votes.

    Source: Levine and Feizi, "Deep Partition Aggregation: Provable Defense against General Poisoning Attacks", ICLR 2021.
    A row's part is a hash of its inputs, salted by the seed (the paper: the sum of its pixels mod k), whatever its label,
    so an inserted, deleted or relabelled row touches one part and an edited one two. Inside a part rows are sorted by
    that hash and numbered anew: what a member sees and draws depends on its own part and on nothing else.
    A part without rows votes for class 0.

    Args:
        parts: k.
        member: another recipe for the members; null is that of the run.
    """

    VERSION: ClassVar[int] = 1
    parts: int
    member: Learner | None

    def __post_init__(self) -> None:
        """Refuse a number that means nothing."""
        if self.parts < 1:
            raise ConfigError(f"defense.train.parts={self.parts}: give 1 or more")

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=self.member or learner, parts=self.parts)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The learner that trains the members.

    Source: Levine and Feizi, ICLR 2021.

    Args:
        member: recipe of each member.
        parts: k.
    """

    VERSION: ClassVar[int] = 1
    member: Learner
    parts: int

    @property
    def stages(self) -> frozenset[str]:
        """The member's slots, less those that need one model, and certificates."""
        return (self.member.stages - DROPPED) | {"defense.certify"}

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        return self.member.runtime

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse more parts than rows, and what the member refuses.

        Raises:
            ConfigError: what to change.
        """
        if self.parts > len(data):
            raise ConfigError(f"defense.train.parts={self.parts}: there are {len(data)} training rows; give each part at least one")
        self.member.check(data.take(torch.arange(max(1, len(data) // self.parts))), combine)

    def with_public(self, public: Dataset, fit: Callable[[Learner, Dataset], Victim]) -> Ensemble:
        """Return the ensemble of members that know the public rows."""
        return dataclasses.replace(self, member=self.member.with_public(public, fit))

    def with_step(self, step: Step) -> Ensemble:
        """Return the ensemble of members with one more step."""
        return dataclasses.replace(self, member=self.member.with_step(step))

    def with_epochs(self, epochs: int) -> Ensemble:
        """Return the ensemble of members with another number of epochs."""
        return dataclasses.replace(self, member=self.member.with_epochs(epochs))

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Votes:
        """Train every member on its own part."""
        assert start is None, "an ensemble is trained from scratch"
        parts = divided(data, self.parts, rng.child("parts"))
        full = [place for place, part in enumerate(parts) if len(part)]
        victims = self.member.fit_many([parts[place] for place in full], combine, [rng.child(f"member/{place}") for place in full])
        facts = {"members": self.parts, "rows_of_smallest": min(map(len, parts)), "rows_of_largest": max(map(len, parts))}
        return Votes(members=dict(zip(full, victims, strict=True)), parts=self.parts, kinds=data.num_classes, facts=facts)

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Train one ensemble a part."""
        return fit_each(self, parts, combine, rngs, start)

    def restore(self, trained: Trained, like: Dataset) -> Votes:
        """Rebuild the members."""
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in trained.state.items():
            place, _, own = name.partition(".")
            states.setdefault(int(place), {})[own] = value
        members = {place: self.member.restore(Trained(state=state, facts={}), like) for place, state in states.items()}
        return Votes(members=members, parts=self.parts, kinds=like.num_classes, facts=trained.facts)


@dataclass(frozen=True, eq=False, kw_only=True)
class Votes:
    """An ensemble; its scores are counts of votes.

    Args:
        members: the trained members by part.
        parts: k.
        kinds: K.
        facts: number of members, rows of the smallest and the largest part.
        history: states on the way.
        module: none: votes have no gradient.
    """

    members: Mapping[int, Victim]
    parts: int
    kinds: int
    facts: Mapping[str, object]
    history: Sequence[State] = ()
    module: None = None

    def scores(self, inputs: Tensor, answers: Tensor | None = None) -> Tensor:
        """Return (M, K) votes; the first of several largest ones is the answer, as in the paper."""
        votes = torch.zeros(len(inputs), self.kinds)
        for member in self.members.values():
            votes += torch.nn.functional.one_hot(member.scores(inputs).argmax(1), self.kinds)
        votes[:, 0] += self.parts - len(self.members)
        return votes

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, K), the shares of the votes."""
        return self.scores(inputs) / self.parts

    def state(self) -> State:
        """Return the states of all members."""
        return {f"{place}.{name}": value for place, member in self.members.items() for name, value in member.state().items()}

    def silenced(self, channels_D: Tensor) -> Votes:
        """Refuse: an ensemble is not one model."""
        raise Incompatible("an ensemble of many models has no channels of its own to prune")


def divided(data: Dataset, parts: int, salt: Key) -> list[Dataset]:
    """Return the parts of the rows, each sorted by hash and numbered from 0."""
    inputs = data.inputs.contiguous()
    secret = bytes.fromhex(salt.digest)
    hashes = [hashlib.blake2b(row.numpy().tobytes(), digest_size=16, key=secret).digest() for row in inputs]
    tied = [hashes[place] + int(data.labels[place]).to_bytes(8, "big") for place in range(len(data))]
    places: list[list[int]] = [[] for _ in range(parts)]
    for place in sorted(range(len(data)), key=tied.__getitem__):
        places[int.from_bytes(hashes[place], "big") % parts].append(place)
    return [_numbered(data.take(torch.tensor(rows, dtype=torch.int64))) for rows in places]


def _numbered(part: Dataset) -> Dataset:
    rows = torch.arange(len(part))
    return part.with_columns(part.columns | {"ids": rows, "owners": torch.zeros_like(rows)})
