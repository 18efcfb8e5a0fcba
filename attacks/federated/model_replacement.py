"""Model replacement: boost a poisoned update until it survives the average.

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
    """Multiply the malicious updates by a boost.

    Source: Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to Backdoor Federated Learning", AISTATS 2020: to replace
    the global model G by X, send G + gamma (X - G). With updates averaged over the n clients of a round and the
    server's step eta, k colluders need gamma = n / (eta k) each; that is the default, with n, k and eta those of the
    round. The constrain-and-scale loss of the paper is off there by default (alpha = 1) and not built here. What
    the malicious clients learn is their data attack.

    Args:
        boost: gamma, above 0; null is n / (eta k).
    """

    VERSION: ClassVar[int] = 1
    boost: float | None

    def __post_init__(self) -> None:
        """Refuse a boost that means nothing."""
        if self.boost is not None and not self.boost > 0:
            raise ConfigError(f"attack.update.boost={self.boost}: a factor above 0, or null for n / (eta k)")

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with the malicious ones multiplied."""
        boost = len(round.updates) / (round.eta * int(round.malicious.sum())) if self.boost is None else self.boost
        updates = round.updates.clone()
        updates[round.malicious] *= boost
        return Crafted(updates=updates, facts={"boost": boost})
