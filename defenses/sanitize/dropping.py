"""What filters that drop a number of the most suspicious rows have in common.

Shape letters: N rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poisonbench.core.defense import Verdict, stated
from poisonbench.core.errors import ConfigError

RATE = "defense.sanitize.expected_rate"


def check_dropping(expected_rate: float | None, margin: float) -> None:
    """Refuse a rate outside [0, 1), and a margin that is negative or not finite.

    Raises:
        ConfigError: names the field.
    """
    if not 0 <= margin < math.inf:
        raise ConfigError(f"defense.sanitize.margin={margin}: give a finite number of 0 or more")
    if expected_rate is not None and not 0 <= expected_rate < 1:
        raise ConfigError(f"{RATE}={expected_rate}: a rate to expect lies in [0, 1)")


def dropped(suspicion_N: Tensor, expected_rate: float | None, margin: float) -> Verdict:
    """Return the verdict that drops the margin * expected_rate * N rows of the largest suspicion; of equal ones the first.

    Raises:
        ConfigError: no rate, or all rows would be dropped.
    """
    count = round(margin * stated(expected_rate, RATE) * len(suspicion_N))
    if count >= len(suspicion_N):
        raise ConfigError(f"defense.sanitize.margin={margin:g} times the expected rate removes all {len(suspicion_N)} rows; lower one of them")
    keep = torch.ones(len(suspicion_N), dtype=torch.bool)
    keep[suspicion_N.argsort(descending=True, stable=True)[:count]] = False
    return Verdict(keep=keep, suspicion=suspicion_N.float())
