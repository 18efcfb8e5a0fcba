"""Spectral signatures: poisoned rows stand out along the top singular direction of their class.

Shape letters: N rows, K classes, D features, R rows of one class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict, stated
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures:
    """Drop the rows that align most with the top singular direction of their class.

    Source: Tran, Li, Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, Algorithm 1.
    Features are those of the undefended victim, without augmentation. The paper assumes that poison is the
    smaller part of a class: the squared score cannot say which half is poison once it nears one half. With
    `classes: all` and a rate near 1 / K the paper's count exceeds a clean class; `keep_at_least` bounds it.

    Args:
        expected_rate: poisoned rows / training rows to assume, in [0, 0.5); null takes what the threat's budget says, rate or count,
            which is oracle knowledge, and with attack=none a stated assumption.
        score: "paper": squared projection of centred features. "released_code": of uncentred features on
            the direction of the centred ones, as the authors' code and most ports compute it; it loses the poison
            when a class mean is large.
        classes: "suspected": the class with the largest share of variance in its top direction; "all": every
            class, as the paper has it.
        margin: rows removed from a class, as a multiple of expected_rate * N (paper: 1.5).
        keep_at_least: share of a class that always stays, in [0, 1].
    """

    VERSION: ClassVar[int] = 1
    expected_rate: float | None = field(metadata={"told": POISON_RATE})
    score: Literal["paper", "released_code"]
    classes: Literal["suspected", "all"]
    margin: float
    keep_at_least: float

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.expected_rate is not None and not 0 <= self.expected_rate < 0.5:
            raise ConfigError(f"defense.sanitize.expected_rate={self.expected_rate}: a rate to expect lies in [0, 0.5)")
        if self.margin < 0 or not 0 <= self.keep_at_least <= 1:
            raise ConfigError("defense.sanitize: margin is 0 or more, keep_at_least lies in [0, 1]")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row within its class and drop the top of the suspected class, or of all."""
        features = means.fit(data).features(data.inputs)
        suspicion, shares = torch.zeros(len(data)), torch.full((data.num_classes,), -1.0)
        for label in data.labels.unique().tolist():
            rows = data.labels == label
            suspicion[rows], shares[label] = signature(features[rows], centre=self.score == "paper")
        return Verdict(keep=self._keep(data, suspicion, shares), suspicion=suspicion)

    def _keep(self, data: Dataset, suspicion: Tensor, shares: Tensor) -> Tensor:
        suspected = [int(shares.argmax())] if self.classes == "suspected" else data.labels.unique().tolist()
        wanted = round(self.margin * stated(self.expected_rate, "defense.sanitize.expected_rate") * len(data))
        keep = torch.ones(len(data), dtype=torch.bool)
        for label in suspected:
            rows = (data.labels == label).nonzero()[:, 0]
            count = min(wanted, int((1 - self.keep_at_least) * len(rows)))
            keep[rows[suspicion[rows].argsort(descending=True, stable=True)[:count]]] = False
        return keep


def signature(features_RD: Tensor, *, centre: bool) -> tuple[Tensor, float]:
    """Score the rows of one class.

    Args:
        features_RD: (R, D) features.
        centre: project centred features, as the paper does, or uncentred ones.

    Returns:
        (R,) float32 squared projections on the top singular direction of the centred features, and the share
        of variance in that direction.
    """
    raw = features_RD.to(torch.float64)
    centred = raw - raw.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # D x D: exact, and far cheaper than an SVD of R x D
    projected = (centred if centre else raw) @ directions[:, -1]
    share = float(variances[-1] / variances.sum().clamp_min(1e-12))
    return projected.square().float(), share
