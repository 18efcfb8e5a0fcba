"""Sign flipping: send the opposite of one's own honest update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.attack import Crafted, Round
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class SignFlip:
    """Multiply each malicious update by a negative number.

    Source: the reversed-gradient attack of Li, Xu, Chen, Giannakis, Ling, "RSA: Byzantine-Robust Stochastic Aggregation
    Methods for Distributed Learning from Heterogeneous Datasets", AAAI 2019 (factor -4 there; -1 in most suites). A client
    needs its own update alone, so it does not matter what the threat lets it see.

    Args:
        factor: how many times its own update a client sends back, above 0.
    """

    VERSION: ClassVar[int] = 1
    factor: float

    def __post_init__(self) -> None:
        """Refuse a factor that flips nothing."""
        if not self.factor > 0:
            raise ConfigError(f"attack.update.factor={self.factor}: a factor above 0; the sign is the attack's own")

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with the malicious ones turned around."""
        updates = round.updates.clone()
        updates[round.malicious] *= -self.factor
        return Crafted(updates=updates)
