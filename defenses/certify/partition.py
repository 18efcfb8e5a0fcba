"""What certificates of ensembles have in common whose members see parts of the rows.

Shape letters: M test rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import Change, Electorate, electorate
from poisonbench.core.learner import Victim


@dataclass(frozen=True, kw_only=True)
class PartitionCertificate(NoCertificate):
    """Radii in partitions become radii in changed rows.

    Args:
        change: what is counted: "insert", "delete" or "flip" touches one partition, "edit" two.
    """

    VERSION: ClassVar[int] = 1
    change: Change

    def proved(self, ensemble: Electorate, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (M,) radii in partitions and (M,) answers."""
        raise NotImplementedError

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii, -1 where the answer is already wrong."""
        ensemble = electorate(victim)
        radii, answers = self.proved(ensemble, test.inputs)
        return torch.where(answers == test.labels, radii.div(ensemble.touched(self.change), rounding_mode="floor"), -1)
