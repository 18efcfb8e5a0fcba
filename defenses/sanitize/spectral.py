"""Spectral signatures: poisoned rows have large projections on the top singular direction of their class.

Shape letters: N rows, K classes, D features, R rows of one class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.sanitize.principal import centred, principal
from poisonbench.core.abilities import features_of
from poisonbench.core.classwise import by_class
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict, stated
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures:
    """Drop the rows that align most with the top singular direction of their class.

    Source: Tran, Li, Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, Algorithm 1.

    Features are those of the undefended victim, without augmentation. The squared score is the same on both sides of the mean. So when about half of
    a class is poison, the score cannot separate it from the clean half.

    Differences: Algorithm 1 removes the 1.5 * epsilon rows with the top scores from every class, where epsilon is an upper bound on the number of
    poisoned rows. In the paper's experiments epsilon is 5 or 10 % of the rows of one class, and the authors' code cleans only the attacked class,
    which it is given. A defender here assumes a rate over all N rows; `classes` says which classes are cleaned:

    - "suspected" (default): the filter finds one class itself. With rate 0.05 it removes 7.5 % of the training rows. If all classes are poisoned
      (all-to-all) and K = 10, nine of them stay poisoned.
    - "all": as in Algorithm 1. With K = 10 equal classes it removes 1.5 * 0.05 * 10 = 75 % of every class. If all poison is in one class
      (all-to-one), the other nine are clean.
    - "each": 1.5 * rate * n of every class of n rows, together 7.5 % of all rows; for poison in every class.

    Measured on digits with the patch of badnets at 5 %, seeds 0-2, mean C-Acc / ASR (`+experiment=all_to_all`):

    | mapping    | no filter    | suspected   | each         | all         |
    |------------|--------------|-------------|--------------|-------------|
    | all_to_one | 98.6 / 100.0 | 98.6 / 16.6 | 98.0 / 100.0 | 89.5 / 22.0 |
    | all_to_all | 98.7 / 83.6  | 98.1 / 74.8 | 98.1 / 35.1  | 93.2 / 12.9 |

    Args:
        expected_rate: poisoned rows / training rows to assume, in [0, 0.5). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        score: "paper": squared projection of centred features. "released_code": squared projection of uncentred features on the direction of the
            centred ones, as in the authors' code and most ports; it misses the poison when a class mean is large.
        classes: which classes lose rows. "suspected": the class with the largest share of variance in its top direction loses margin *
            expected_rate * N rows. "all": every class loses that many. "each": every class of n rows loses margin * expected_rate * n.
        margin: rows removed, as a multiple of the expected poison, 0 or more (paper: 1.5).
        keep_at_least: share of a class that is always kept, in [0, 1].
    """

    VERSION: ClassVar[int] = 1
    FINDS: ClassVar[Finds] = Finds(
        kind="backdoor", reads="full", because="it stands out in the direction in which the features of {label} vary most", scale="data"
    )
    BY_CLASS: ClassVar[bool] = True
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    score: Literal["paper", "released_code"]
    classes: Literal["suspected", "all", "each"]
    margin: float
    keep_at_least: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.expected_rate is not None and not 0 <= self.expected_rate < 0.5:
            raise ConfigError(f"defense.sanitize.expected_rate={self.expected_rate}: a rate to expect lies in [0, 0.5)")
        if self.margin < 0 or not 0 <= self.keep_at_least <= 1:
            raise ConfigError("defense.sanitize: margin is 0 or more, keep_at_least lies in [0, 1]")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row within its class and drop the top rows of the chosen classes."""
        features = features_of(means.fit(data), data)
        suspicion, shares = torch.zeros(len(data)), torch.full((data.num_classes,), -1.0)
        for label, rows in by_class(data):
            suspicion[rows], shares[label] = signature(features[rows], centre=self.score == "paper")
        return Verdict(keep=self._keep(data, suspicion, shares), suspicion=suspicion)

    def _keep(self, data: Dataset, suspicion: Tensor, shares: Tensor) -> Tensor:
        suspected = [int(shares.argmax())] if self.classes == "suspected" else data.labels.unique().tolist()
        rate = stated(self.expected_rate, "defense.sanitize.expected_rate")
        keep = torch.ones(len(data), dtype=torch.bool)
        for label in suspected:
            rows = (data.labels == label).nonzero()[:, 0]
            holding = len(rows) if self.classes == "each" else len(data)
            count = min(round(self.margin * rate * holding), int((1 - self.keep_at_least) * len(rows)))
            keep[rows[suspicion[rows].argsort(descending=True, stable=True)[:count]]] = False
        return keep


def signature(features_RD: Tensor, *, centre: bool) -> tuple[Tensor, float]:
    """Score the rows of one class.

    Args:
        features_RD: (R, D) features.
        centre: project centred features, as in the paper, or uncentred ones.

    Returns:
        (R,) float32 squared projections on the top singular direction of the centred features, and the share
        of variance in that direction. If all rows are equal: projections on the last feature, and 0.
    """
    rows = centred(features_RD)
    directions, share = principal(rows, 1)
    direction = directions[:, 0]
    if not direction.any():
        direction[-1] = 1
    projected = (rows if centre else features_RD.to(torch.float64)) @ direction
    return projected.square().float(), share
