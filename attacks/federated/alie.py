"""A Little Is Enough: hide inside the spread of the honest updates.

Shape letters: V visible updates, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from attacks.federated.seen import benign, sent_by_all
from poisonbench.core.attack import Crafted, Round
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Alie:
    """Send mean - z * deviation of the visible updates, coordinate by coordinate.

    Source: Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS
    2019. z is the largest with which the malicious updates lie nearer to the mean than s of the honest ones:
    z = Phi^-1((n - f - s) / (n - f)), s = floor(n / 2 + 1) - f. For usual numbers it is small (n = 20, f = 4: 0.16)
    and can be zero, which makes the attack a no-op (n = 10, f = 2), so z is in the facts of every record. The authors' code
    defaults to z = 1.5.

    The paper's attacker is not omniscient: mean and deviation are those of the malicious clients' own honest updates. So is
    the default here (threat=federated_partial); with threat.omniscient=true they are those of all honest clients, as most
    suites have it. The deviation divides by the number of updates, as numpy.var does in the authors' code, not by one less:
    with f = 4 malicious clients the other form is 15 % larger. A single malicious client sees no spread and sends its honest
    update.

    Args:
        z: deviations, or null for the formula.
    """

    VERSION: ClassVar[int] = 2
    z: float | None

    def __post_init__(self) -> None:
        """Refuse a negative deviation."""
        if self.z is not None and self.z < 0:
            raise ConfigError(f"attack.update.z={self.z}: 0 or more, or null for the formula")

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with mean - z * deviation from every malicious client."""
        seen = benign(round)
        z = largest_z(len(round.updates), int(round.malicious.sum())) if self.z is None else self.z
        return sent_by_all(round, seen.mean(0) - z * seen.std(0, correction=0), {"z": z})


def largest_z(clients: int, malicious: int) -> float:
    """Return the paper's z for n clients and f malicious ones; 0 where the attackers are a majority anyway."""
    honest = clients - malicious
    supporters = clients // 2 + 1 - malicious
    share = (honest - supporters) / honest if honest else 1.0
    return max(0.0, NormalDist().inv_cdf(share)) if 0 < share < 1 else 0.0
