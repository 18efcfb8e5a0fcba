"""Blended injection: a whole picture, blended faintly into the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.backdoor.triggers import all_to, from_file, images
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.files import File
from poisonbench.core.goals import Backdoor
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, eq=False, kw_only=True)
class Blend:
    """Trigger: a weighted average of the input and one pattern.

    Args:
        pattern: (C, H, W) uint8.
        alpha: weight of the pattern, in [0, 1].
    """

    VERSION: ClassVar[int] = 1
    pattern: Tensor
    alpha: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, C, H, W) blended copies, rounded."""
        return ((1 - self.alpha) * inputs.float() + self.alpha * self.pattern.float()).round().to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Blended:
    """Blend a pattern into some training rows and give them the target label.

    Source: Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017, "blended injection".

    Differences: the paper blends a cartoon picture or uniform random pixels. The default here is random pixels, since no picture is shipped. The same
    weight is used in training and at test time (paper: up to 0.2 in training).

    Args:
        image: an image file, scaled to the inputs; null: uniform random pixels.
        pattern_seed: seed of the random pixels; they do not depend on the seed of the run.
        alpha: weight of the pattern, in (0, 1].
        target: target label.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    image: File | None
    pattern_seed: int
    alpha: float
    target: int

    def __post_init__(self) -> None:
        """Check that the weight is in range."""
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"attack.data.alpha={self.alpha}: the weight is in (0, 1]")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the pattern on as many of them as the budget allows.

        Raises:
            ConfigError: the target is not a class, the inputs are not images, or there are too few rows to poison.
        """
        rows, wish = known.rows, all_to(self.target, known.rows.num_classes)
        goal = Backdoor(trigger=Blend(pattern=self.pattern(tuple(rows.inputs.shape[1:])), alpha=self.alpha), wish=wish)
        chosen = known.choose(rows.labels != self.target, rng.child("rows"))
        data = rows.edit(chosen, inputs=goal.trigger(rows.inputs[chosen]), labels=wish[rows.labels[chosen]])
        return Poisoned(data=data, mask=known.mask(chosen), goal=goal)

    def pattern(self, shape: tuple[int, ...]) -> Tensor:
        """Return (C, H, W) uint8 for images of this shape."""
        channels, height, width = images(shape, "a blended picture")
        if self.image is None:
            draws = Key.root(self.pattern_seed).child("blended").numpy().integers(0, 256, (channels, height, width))
            return torch.from_numpy(draws).to(torch.uint8)
        return from_file(self.image, channels, (height, width))[0]
