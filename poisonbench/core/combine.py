"""How contributions are combined where nobody attacks or defends."""

from __future__ import annotations

import torch

from poisonbench.core.attack import Honest
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Mean
from poisonbench.core.learner import Combine


def honest(rows: Dataset) -> Combine:
    """Return the mean of all contributions, for a training on these rows without an attacker and without trusted rows."""
    nobody = torch.zeros(0, dtype=torch.int64)
    return Combine(craft=Honest(), aggregate=Mean(), malicious=nobody, rounds=None, omniscient=True, clean=rows, trusted=rows.take(nobody))
