"""Inner-product manipulation: the opposite of the honest mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.federated.seen import benign, sent_by_all
from poisonbench.core.attack import Crafted, Round
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Ipm:
    """Send -epsilon times the mean of the visible updates.

    Source: Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation", UAI 2019.

    A small epsilon (0.1) evades distance-based rules; a large one (100) destroys the plain mean. The mean is over all honest updates, which the
    paper's attacker knows (threat=federated). With threat.omniscient=false it is over the malicious clients' own honest updates.

    Args:
        epsilon: factor, above 0.
    """

    VERSION: ClassVar[int] = 1
    epsilon: float

    def __post_init__(self) -> None:
        """Check that the factor is in range."""
        if not self.epsilon > 0:
            raise ConfigError(f"attack.update.epsilon={self.epsilon}: give a factor above 0")

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with -epsilon times the mean from every malicious client."""
        return sent_by_all(round, -self.epsilon * benign(round).mean(0), {"epsilon": self.epsilon})
