"""Model replacement: a poisoned update, scaled up so that it survives the average.

Shape letters: C clients, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.attack import Crafted, Round
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class ModelReplacement:
    """Multiply the malicious updates by a boost, so that they survive the average.

    Source: Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to Backdoor Federated Learning", AISTATS 2020: to replace the global model G by X, send G
    + gamma (X - G).

    If the server averages the updates of n clients and takes a step of size eta, each of k malicious clients needs gamma = n / (eta k). This is the
    default, with n, k and eta of the round. What the malicious clients train on is set by their data attack.

    Not included: the constrain-and-scale loss of the paper, which is off there by default (alpha = 1).

    Args:
        boost: gamma, above 0; null: n / (eta k).
    """

    VERSION: ClassVar[int] = 1
    boost: float | None

    def __post_init__(self) -> None:
        """Check that the boost is in range."""
        if self.boost is not None and not self.boost > 0:
            raise ConfigError(f"attack.update.boost={self.boost}: give a factor above 0, or null for n / (eta k)")

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with the malicious ones multiplied by the boost."""
        boost = len(round.updates) / (round.eta * int(round.malicious.sum())) if self.boost is None else self.boost
        updates = round.updates.clone()
        updates[round.malicious] *= boost
        return Crafted(updates=updates, facts={"boost": boost})
