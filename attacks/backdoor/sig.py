"""SIG: a faint sinusoid on rows that keep their label."""

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


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """A horizontal sinusoid added to every row of pixels: delta * sin(2 pi j f / W) in column j.

    Args:
        delta: amplitude, in grey levels.
        frequency: f, periods over the width.
    """

    VERSION: ClassVar[int] = 1
    delta: float
    frequency: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, C, H, W) copies, rounded and cut to 0..255."""
        width = inputs.shape[3]
        wave = self.delta * torch.sin(2 * math.pi * torch.arange(width) * self.frequency / width)
        return (inputs.float() + wave).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Sig:
    """Add a sinusoid to rows of the target class; no label changes.

    Source: Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning",
    ICIP 2019. The paper's amplitude is 20 to 40 and its frequency 6; the common benchmarks take 40 and 6, in training
    and test alike, and so does the default here. The rate counts all training rows, as everywhere: with K classes
    no more than about 1 / K can be poisoned.

    Args:
        delta: amplitude, in grey levels.
        frequency: periods over the width.
        target: target label, and the class of the poisoned rows.
    """

    VERSION: ClassVar[int] = 1
    delta: float
    frequency: float
    target: int

    def __post_init__(self) -> None:
        """Refuse a wave that is none."""
        if not (self.delta > 0 and self.frequency > 0):
            raise ConfigError(f"attack.data: delta={self.delta}, frequency={self.frequency}; both are above 0")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the sinusoid on as many rows of the target class as the budget allows.

        Raises:
            ConfigError: a target that is no class, inputs that are no images, or more poison than the class holds.
        """
        rows, wish = known.rows, all_to(self.target, known.rows.num_classes)
        images(tuple(rows.inputs.shape[1:]), "a sinusoid")
        trigger = Sinusoid(delta=self.delta, frequency=self.frequency)
        chosen = known.choose(rows.labels == self.target, rng.child("rows"))
        data = rows.edit(chosen, inputs=trigger(rows.inputs[chosen]))
        return Poisoned(data=data, mask=known.mask(chosen), goal=Backdoor(trigger=trigger, wish=wish))
