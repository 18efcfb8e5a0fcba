"""Shared code of defenses that train many models, each on some of the rows, and let them vote.

Shape letters: N rows, M test rows, R members, K classes, H partitions, d members that a partition reaches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.electorate import Change, Rule, Tally
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.finite import finite
from poisonbench.core.learner import Around, Combine, State, Trained, Victim
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Committee(Around):
    """Base class of learners that train many members; a subclass defines the rows of each member.

    Args:
        rule: "plurality" of the votes; or "run_off": of the two classes with the most votes, the one that more members score above the other.
    """

    VERSION: ClassVar[int] = 1
    rule: Rule = field(default="plurality", metadata={"spec": "changed"})

    @property
    def size(self) -> int:
        """Number of members."""
        raise NotImplementedError

    def divided(self, data: Dataset, rng: Key) -> list[Dataset]:
        """Return the rows of each member; a member may have none."""
        raise NotImplementedError

    def facts_of(self, data: Dataset, rng: Key, members: Sequence[Victim]) -> dict[str, object]:
        """Return the facts that a certificate needs, such as what was drawn or spent; an epsilon is that of all members together."""
        return {}

    def reach(self, facts: Mapping[str, object]) -> Tensor:
        """Return (H, d) int64, the members that are trained on each partition.

        Raises:
            ConfigError: the members do not use partitions.
        """
        raise ConfigError(f"defense.certify: {type(self).__name__} does not partition its rows; use its own certificate")

    def touched(self, change: Change) -> int:
        """Return how many partitions one change touches."""
        return 2 if change == "edit" else 1

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that there are enough rows for the members, and that the member accepts them.

        Raises:
            ConfigError: what to change.
        """
        raise NotImplementedError

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Votes:
        """Train every member on its own rows."""
        assert start is None, "an ensemble is trained from scratch"
        parts = self.divided(data, rng)
        filled = [place for place, part in enumerate(parts) if len(part)]
        victims = self.member.fit_many([parts[place] for place in filled], combine, [rng.child(f"member/{place}") for place in filled])
        facts: dict[str, object] = {"members": len(parts), "rows_of_smallest": min(map(len, parts)), "rows_of_largest": max(map(len, parts))}
        return Votes(members=dict(zip(filled, victims, strict=True)), committee=self, kinds=data.num_classes, facts=facts | self.facts_of(data, rng, victims))

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Votes:
        """Rebuild the members."""
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in trained.state.items():
            place, _, own = name.partition(".")
            states.setdefault(int(place), {})[own] = value
        members = {place: self.member.restore(Trained(state=state, facts={}), like, combine) for place, state in states.items()}
        return Votes(members=members, committee=self, kinds=like.num_classes, facts=trained.facts)


@dataclass(frozen=True, eq=False, kw_only=True)
class Votes:
    """An ensemble; its scores are counts of votes.

    Args:
        members: the trained members, by number; members without rows are missing.
        committee: the learner that trained them.
        kinds: K.
        facts: number of members, rows of the smallest and the largest part, and what `Committee.facts_of` adds.
        history: earlier states.
        module: None: votes have no gradient.
    """

    members: Mapping[int, Victim]
    committee: Committee
    kinds: int
    facts: Mapping[str, object]
    history: Sequence[State] = ()
    module: None = None
    tallies: dict[str, Tally] = field(default_factory=dict)  # the tally of the last inputs: a certificate needs those that were just scored

    @property
    def rule(self) -> Rule:
        """How votes are turned into an answer."""
        return self.committee.rule

    def tally(self, inputs: Tensor) -> Tally:
        """Return the votes of every member, computed in chunks of inputs.

        Raises:
            Diverged: a score of a member is not finite.
        """
        name = hashlib.blake2b(inputs.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        if name not in self.tallies:
            count = self.committee.size
            answers = torch.zeros(len(inputs), count, dtype=torch.int32)  # a member without rows votes for class 0
            wins = torch.zeros(len(inputs), self.kinds, self.kinds, dtype=torch.int64)
            wins[:, 0, 1:] = count - len(self.members)
            filled, at = torch.tensor(list(self.members)), 0
            for scores in self.committee.member.scores_many(list(self.members.values()), inputs):
                some = slice(at, at + len(scores))
                answers[some, filled] = finite(scores, "scores of an ensemble, by row, trained member and class").argmax(2).to(torch.int32)
                for kind in range(self.kinds):
                    wins[some, kind] += (scores[:, :, kind, None] > scores).sum(1)
                at += len(scores)
            self.tallies.clear()
            self.tallies[name] = Tally(answers_MR=answers, wins_MKK=wins)
        return self.tallies[name]

    def reach(self) -> Tensor:  # shape letters
        """The (H, d) int64 members that are trained on each partition."""
        return self.committee.reach(self.facts)

    def touched(self, change: Change) -> int:
        """Return how many partitions one change touches."""
        return self.committee.touched(change)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) votes; on a tie the smallest class is the answer, as in the paper. The winner of a run-off has one vote more than all others."""
        tally = self.tally(inputs)
        votes = tally.votes_MK
        if self.committee.rule == "run_off":
            first, _ = finalists(votes, tally.wins_MKK)
            votes[torch.arange(len(votes)), first] = votes.max(1).values + 1
        return votes.float()

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, K), the shares of the votes."""
        return self.tally(inputs).votes_MK / (self.committee.size)

    def state(self) -> State:
        """Return the states of all members."""
        return {f"{place}.{name}": value for place, member in self.members.items() for name, value in member.state().items()}

    def silenced(self, channels_D: Tensor) -> Votes:
        """Raise Incompatible: an ensemble is not a single model."""
        raise Incompatible("an ensemble of many models has no channels of its own to prune")


def finalists(votes_MK: Tensor, wins_MKK: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M,) the winners of the run-off and (M,) the losers of it; ties go to the smaller class."""
    order = votes_MK.argsort(dim=1, descending=True, stable=True)
    one, other, rows = order[:, 0], order[:, 1], torch.arange(len(votes_MK))
    small, large = torch.minimum(one, other), torch.maximum(one, other)
    upset = wins_MKK[rows, large, small] > wins_MKK[rows, small, large]
    return torch.where(upset, large, small), torch.where(upset, small, large)
