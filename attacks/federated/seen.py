"""What attacks on updates share: the honest updates as far as the attacker sees them.

Shape letters: V visible honest updates, P parameters.
"""

from __future__ import annotations

from torch import Tensor

from poisonbench.core.attack import Crafted, Round


def benign(round: Round) -> Tensor:
    """Return (V, P), the visible updates of honest clients; without any, what the attacker's own would honestly send."""
    honest = round.visible & ~round.malicious
    return round.updates[honest if honest.any() else round.malicious]


def sent_by_all(round: Round, update: Tensor, facts: dict[str, float]) -> Crafted:
    """Return the updates with one and the same malicious update from every malicious client."""
    updates = round.updates.clone()
    updates[round.malicious] = update
    return Crafted(updates=updates, facts=facts)
