"""A Little Is Enough (ALIE): malicious updates within the spread of the honest ones.

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
    """Send mean - z * standard deviation of the visible updates, coordinate by coordinate.

    Source: Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS 2019.

    z is the largest value for which the malicious updates are closer to the mean than s of the honest ones: z = Phi^-1((n - f - s) / (n - f)) with s
    = floor(n / 2 + 1) - f, n clients and f malicious ones. For usual numbers z is small (n = 20, f = 4: 0.16), and it can be 0 (n = 10, f = 2): then
    the plain mean is sent. Every record therefore has z in its facts. The authors' code defaults to z = 1.5.

    As in the paper, mean and deviation are those of the malicious clients' own honest updates (threat=federated_partial, the default). With
    threat.omniscient=true they are those of all honest clients, as in most suites. The deviation divides by the number of updates, as numpy.var in
    the authors' code does, not by that number minus one; with f = 4 the other form is 15 % larger. A single malicious client sees no deviation and
    sends its honest update.

    Args:
        z: number of standard deviations, 0 or more; null: the formula above.
    """

    VERSION: ClassVar[int] = 2
    z: float | None

    def __post_init__(self) -> None:
        """Check that z is in range."""
        if self.z is not None and self.z < 0:
            raise ConfigError(f"attack.update.z={self.z}: 0 or more, or null for the formula")

    def craft(self, round: Round, rng: Key) -> Crafted:
        """Return the updates with mean - z * deviation from every malicious client."""
        seen = benign(round)
        z = largest_z(len(round.updates), int(round.malicious.sum())) if self.z is None else self.z
        return sent_by_all(round, seen.mean(0) - z * seen.std(0, correction=0), {"z": z})


def largest_z(clients: int, malicious: int) -> float:
    """Return the paper's z for n clients and f malicious ones; 0 if the malicious clients are a majority."""
    honest = clients - malicious
    supporters = clients // 2 + 1 - malicious
    share = (honest - supporters) / honest if honest else 1.0
    return max(0.0, NormalDist().inv_cdf(share)) if 0 < share < 1 else 0.0
