"""STRIP: if the answer stays the same whatever other row is mixed into the input, the input carries a trigger.

Shape letters: M inputs, O overlays, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Reject inputs whose answers stay certain when other rows are mixed into them: pictures laid over them, words put in the place of theirs.

    Source: Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019; for texts, Gao, Kim,
    Doan, Zhang, Zhang, Nepal, Ranasinghe, Kim, "Design and Evaluation of a Multi-Domain Trojan Detection Method on Deep Neural Networks", IEEE TDSC
    2022.

    Suspicion is minus the mean entropy of the answers to superpositions with clean rows (paper: N = 100 of them). As in the paper, inputs above the
    threshold with 5 % false positives on the trusted rows are rejected. The paper's code adds the pictures at full weight and lets pixels saturate
    (`weight` 1). Averaging them (0.5) also halves the trigger; a patch on digits is then missed completely.

    In a text each word is replaced, with probability one half, by the word at its place in the other row; the second paper replaces words by those of
    the other text with the largest tf-idf. Entropies are averaged over the mixtures of each input; a port for texts averages over different inputs.

    Args:
        overlays: O, trusted rows mixed into each input, one at a time, 1 or more; drawn anew for each input.
        weight: weight of the input and of the overlay, in (0, 1]; no effect on texts.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    overlays: int
    weight: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.overlays < 1 or not 0 < self.weight <= 1:
            raise ConfigError("defense.screen: overlays is 1 or more, weight lies in (0, 1]")

    def suspicion(self, victim: Victim, inputs: Tensor, means: Means, rng: Key) -> Tensor:
        """Return (M,) minus the mean entropy over the overlays, in nats."""
        total = torch.zeros(len(inputs))
        for number in range(self.overlays):
            draws = torch.rand(len(inputs), generator=rng.child(f"overlay/{number}").torch())
            chosen = means.trusted.inputs[(draws * len(means.trusted)).long()]
            laid = means.trusted.form.mixed(inputs, chosen, self.weight, rng.child(f"mix/{number}"))
            total += entropy(victim.scores(laid))
        return -total / self.overlays


def entropy(scores_MK: Tensor) -> Tensor:
    """Return (M,) entropies of the softmax, in nats."""
    logs = scores_MK.log_softmax(1)
    return -(logs.exp() * logs).sum(1)
