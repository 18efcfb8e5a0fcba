"""Shared code of attacks on updates: the honest updates that the attacker sees.

Shape letters: V visible honest updates, P parameters.
"""

from __future__ import annotations

from torch import Tensor

from poisonbench.core.attack import Crafted, Round


def benign(round: Round) -> Tensor:
    """Return (V, P), the visible updates of honest clients; if there are none, the malicious clients' own honest updates."""
    honest = round.visible & ~round.malicious
    return round.updates[honest if honest.any() else round.malicious]


def sent_by_all(round: Round, update: Tensor, facts: dict[str, float]) -> Crafted:
    """Return the updates with the same malicious update from every malicious client."""
    updates = round.updates.clone()
    updates[round.malicious] = update
    return Crafted(updates=updates, facts=facts)
