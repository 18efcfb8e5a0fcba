"""SIG: a faint sinusoid on rows that keep their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.backdoor.triggers import all_to, images
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Backdoor
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """Trigger: a horizontal sinusoid added to every row of pixels, delta * sin(2 pi j f / W) in column j.

    Args:
        delta: amplitude, in grey levels.
        frequency: f, number of periods over the width.
    """

    VERSION: ClassVar[int] = 1
    delta: float
    frequency: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, C, H, W) copies, rounded and clipped to 0..255."""
        width = inputs.shape[3]
        wave = self.delta * torch.sin(2 * math.pi * torch.arange(width) * self.frequency / width)
        return (inputs.float() + wave).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Sig:
    """Add a sinusoid to rows of the target class and keep all labels (clean-label).

    Source: Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning", ICIP 2019.

    The paper uses amplitudes from 20 to 40 and frequency 6. The common benchmarks use 40 and 6, in training and at test time; these are the defaults
    here. The poison rate is a share of all training rows, so with K equal classes at most about 1 / K can be poisoned.

    Args:
        delta: amplitude in grey levels, above 0.
        frequency: number of periods over the width, above 0.
        target: target label, and the class of the poisoned rows.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    delta: float
    frequency: float
    target: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (self.delta > 0 and self.frequency > 0):
            raise ConfigError(f"attack.data: delta={self.delta}, frequency={self.frequency}; both are above 0")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the sinusoid on as many rows of the target class as the budget allows.

        Raises:
            ConfigError: the target is not a class, the inputs are not images, or the class has fewer rows than the budget.
        """
        rows, wish = known.rows, all_to(self.target, known.rows.num_classes)
        images(tuple(rows.inputs.shape[1:]), "a sinusoid")
        trigger = Sinusoid(delta=self.delta, frequency=self.frequency)
        chosen = known.choose(rows.labels == self.target, rng.child("rows"))
        data = rows.edit(chosen, inputs=trigger(rows.inputs[chosen]))
        return Poisoned(data=data, mask=known.mask(chosen), goal=Backdoor(trigger=trigger, wish=wish))
