"""STRIP: an answer that survives any picture laid over it is a trigger's.

Shape letters: M inputs, O overlays, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Suspect inputs whose answers stay certain under overlays.

    Source: Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019:
    the entropy of the answers to N = 100 superpositions with clean rows; suspicion is its negative. The paper's code
    adds the pictures at full weight and lets pixels saturate (`weight` 1); averaging them (0.5) halves the trigger as well, and a
    patch on digits is then missed altogether. Rows above the 5 % false
    positive threshold of the trusted rows are refused, as its paper sets it.

    Args:
        overlays: O, trusted rows laid over each input, drawn anew for each.
        weight: of input and of overlay, in (0, 1].
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    overlays: int
    weight: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.overlays < 1 or not 0 < self.weight <= 1:
            raise ConfigError("defense.screen: overlays is 1 or more, weight lies in (0, 1]")

    def suspicion(self, victim: Victim, inputs: Tensor, means: Means, rng: Key) -> Tensor:
        """Return (M,) minus the mean entropy over the overlays, in nats.

        Raises:
            Incompatible: inputs that are no images.
        """
        if inputs.ndim != 4:
            raise Incompatible("defense=strip lays pictures over each other; these inputs are none")
        total = torch.zeros(len(inputs))
        for number in range(self.overlays):
            draws = torch.rand(len(inputs), generator=rng.child(f"overlay/{number}").torch())
            chosen = means.trusted.inputs[(draws * len(means.trusted)).long()]
            laid = (self.weight * inputs.float() + self.weight * chosen.float()).clamp(0, 255).round().to(torch.uint8)
            total += entropy(victim.scores(laid))
        return -total / self.overlays


def entropy(scores_MK: Tensor) -> Tensor:
    """Return (M,) entropies of the softmax, in nats."""
    logs = scores_MK.log_softmax(1)
    return -(logs.exp() * logs).sum(1)
