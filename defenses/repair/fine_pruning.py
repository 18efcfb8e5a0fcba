"""Fine-pruning: prune the channels that are least active on clean rows, then fine-tune.

Shape letters: M trusted rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.defense import Means, Mended, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key


@dataclass(frozen=True, kw_only=True)
class FinePruning:
    """Prune the channels of the last convolution that are least active on trusted rows, then fine-tune on these rows.

    Source: Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks", RAID 2018.

    Channels are pruned in the order of their mean activation, smallest first, as long as the accuracy on the trusted rows falls by at most
    `accuracy_drop`. The activation of a channel is its pooled feature: the maximum or the mean over positions, as the network pools. Pruned channels
    stay zero during the fine-tuning.

    Args:
        accuracy_drop: largest fall of the accuracy on the trusted rows, in [0, 1] (paper: 0.04; common benchmarks: 0.1).
        epochs: epochs of the fine-tuning, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    accuracy_drop: float
    epochs: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 0 <= self.accuracy_drop <= 1 or self.epochs < 0:
            raise ConfigError("defense.repair: accuracy_drop lies in [0, 1], epochs is 0 or more")

    def repair(self, victim: Victim, verdict: Verdict | None, means: Means, rng: Key) -> Mended:
        """Return the pruned and fine-tuned victim.

        Raises:
            Incompatible: the victim is not a single network.
        """
        if victim.module is None:
            raise Incompatible("defense=fine_pruning needs a victim that is one network")
        module, features = victim.module, victim.features(means.trusted.inputs)

        def right(kept_D: Tensor) -> float:
            with torch.no_grad():
                answers = module.head(features * kept_D).argmax(1)
            return float((answers == means.trusted.labels).double().mean())

        pruned = idlest(features, right, self.accuracy_drop)
        mended = victim.silenced(pruned)
        mended = means.tune(mended, means.trusted, epochs=self.epochs) if self.epochs else mended
        return Mended(victim=mended, figures={"pruned": int(pruned.sum()), "channels": len(pruned)})


def idlest(features_MD: Tensor, right: Callable[[Tensor], float], drop: float) -> Tensor:
    """Return (D,) bool, the channels to prune.

    Args:
        features_MD: activations on trusted rows.
        right: returns the accuracy if only the channels in a (D,) bool mask are kept.
        drop: largest fall of that accuracy.
    """
    order = features_MD.mean(0).argsort(stable=True)
    kept, least = torch.ones(len(order), dtype=torch.bool), right(torch.ones(len(order))) - drop
    for channel in order[:-1].tolist():
        kept[channel] = False
        if right(kept) < least:
            kept[channel] = True
            break
    return ~kept
