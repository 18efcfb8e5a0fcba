"""The slots of an attack: what each receives and returns.

Shape letters: N' rows after poisoning, C clients, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.goals import Goal, NoGoal
from poisonbench.core.learner import PlainStep, Step
from poisonbench.core.manifest import Manifest
from poisonbench.core.rng import Key

if TYPE_CHECKING:
    from poisonbench.core.threat import Known


@dataclass(frozen=True, eq=False, kw_only=True)
class Poisoned:
    """A poisoned training set: the clean rows in their order, some of them edited, then injected rows.

    Args:
        data: the rows after the attack.
        mask: (N',) bool, the rows that the attacker edited or injected. All of them count against the budget; the audit checks them.
        goal: what the attacker wants.
        cover: (N',) bool, the rows of the mask that only hide the poison, such as the noise-warped rows of WaNet; None for none. They
            keep their label.
        origins: (I,) int64, for each injected row the position of the clean row that it was made from. Needed where the threat limits
            changes or forbids new labels: an injected row is then measured against its origin.
        manifest: the signed list of rows that the attacker delivers with the rows. None: the attacker poisons before the publisher signs, so the
            publisher's list contains the poisoned rows.
    """

    data: Dataset
    mask: Tensor
    goal: Goal
    cover: Tensor | None = None
    origins: Tensor | None = None
    manifest: Manifest | None = None


class DataAttack(Protocol):
    """An attack on training rows, as a frozen dataclass."""

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return poisoned rows within `known.budget`."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Round:
    """What an attacker on updates sees.

    Args:
        updates: (C, P) float32, what each client would send if it were honest; 0 in the rows that the attacker does not see.
        visible: (C,) bool, the clients whose updates the attacker sees.
        malicious: (C,) bool, the clients whose updates the attacker replaces.
        state: (P,) the global model that the round started from.
        index: number of the round, from 0.
        eta: the server's step size.
    """

    updates: Tensor
    visible: Tensor
    malicious: Tensor
    state: Tensor
    index: int
    eta: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Crafted:
    """Updates (C, P) after the attack, and facts for the record; honest rows stay equal."""

    updates: Tensor
    facts: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class UpdateAttack(Protocol):
    """An attack on federated updates, as a frozen dataclass."""

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Replace the malicious rows of `round.updates`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Untouched:
    """The data attack that changes nothing.

    Args:
        goal: what an attack on updates wants; nothing by default.
    """

    VERSION: ClassVar[int] = 2
    goal: Goal = NoGoal()

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the clean rows and the goal."""
        return Poisoned(data=known.rows, mask=torch.zeros(len(known.rows), dtype=torch.bool), goal=self.goal)


@dataclass(frozen=True, kw_only=True)
class Honest:
    """The update attack that does nothing."""

    VERSION: ClassVar[int] = 1

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates unchanged."""
        return Crafted(updates=round.updates)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack: a function for each place where it can act, a null object where it does not.

    Args:
        data: poisons training rows.
        update: poisons federated updates.
        train: what an attacker who runs the training does in each step; the referee counts and measures the rows that it changes.
    """

    data: DataAttack = Untouched()
    update: UpdateAttack = Honest()
    train: Step = PlainStep()
