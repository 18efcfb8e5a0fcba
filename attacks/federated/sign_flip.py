"""Sign flipping: each malicious client sends the opposite of its honest update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.attack import Crafted, Round
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class SignFlip:
    """Multiply each malicious update by a negative number.

    Source: the reversed-gradient attack of Li, Xu, Chen, Giannakis, Ling, "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed
    Learning from Heterogeneous Datasets", AAAI 2019 (factor -4 there; -1 in most suites).

    A client needs only its own update, so what the threat lets it see makes no difference.

    Args:
        factor: size of the negative number, above 0.
    """

    VERSION: ClassVar[int] = 1
    factor: float

    def __post_init__(self) -> None:
        """Check that the factor is in range."""
        if not self.factor > 0:
            raise ConfigError(f"attack.update.factor={self.factor}: give a factor above 0; the attack adds the minus sign")

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with the malicious ones multiplied by -factor."""
        updates = round.updates.clone()
        updates[round.malicious] *= -self.factor
        return Crafted(updates=updates)
