"""Reconstruction residual: pictures that an auto-encoder does not draw again as they are.

Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.sanitize.dropping import check_dropping, dropped
from poisonbench.core.abilities import Coding
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Differentiable
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE
from poisonbench.forms.shapes import PICTURE, smooth
from poisonbench.forms.tokens import TEXTS

ROWS = 500
PARTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"low": smooth, "high": lambda difference: difference - smooth(difference), "whole": lambda difference: difference}
)


@dataclass(frozen=True, kw_only=True)
class Residual:
    """Drop the rows whose pictures differ most from what the auto-encoder of the model makes of them.

    A cloak moves the code of a picture towards the code of another concept. The decoder then draws that other concept, so the picture and its
    reconstruction differ, also in places that a 3x3 mean does not smooth away. The auto-encoder is the frozen one of the model, fitted on public rows.

    Source: detection of cloaks by what an auto-encoder leaves over is the idea of LightShed (USENIX Security 2025).

    Difference: LightShed trains an auto-encoder on cloaked and clean pictures that outputs the perturbation; here nothing is trained on cloaks, and
    the residual |x - decoder(encoder(x))| is the score. It finds any change that the auto-encoder does not draw, such as random noise; it does not find
    a wrong caption.

    On the training rows of task=concepts (seeds 100 and 101), with noise of 20 grey levels in place of 3 and a limit of 8, the AUROC of `nightshade` was
    0.99 for "low", 0.96 for "whole" and 0.77 for "high". With the noise of 3 all three were above 0.93.

    Args:
        part: the part of the difference that counts: "low", its means over 3x3 pixels; "high", what these means leave; or "whole".
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        margin: rows removed, as a multiple of expected_rate * N, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    COLUMNS: ClassVar[tuple[str, ...]] = (PICTURE,)
    part: Literal["low", "high", "whole"]
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    margin: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.part not in PARTS:
            raise ConfigError(f"defense.sanitize.part={self.part}: choose low, high or whole")
        check_dropping(self.expected_rate, self.margin)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row by the mean absolute difference, in grey levels.

        Raises:
            Incompatible: the model has no auto-encoder.
            ConfigError: all rows would be dropped.
        """
        victim = means.fit(data)
        if not isinstance(victim, Coding):
            raise Incompatible(f"defense=residual needs a model with an auto-encoder, and {type(victim).__name__} has none; use learner=text_to_image")
        coding, part = victim.coding, PARTS[self.part]
        left = [part(unexplained(coding, pictures)).abs().flatten(1).mean(1) for pictures in data.extra[PICTURE].split(ROWS)]
        return dropped(torch.cat(left), self.expected_rate, self.margin)


def unexplained(coding: Differentiable, pictures: Tensor) -> Tensor:
    """Return (N, C, H, W) float32, pictures in 0..255 less what the decoder draws of their codes."""
    with torch.inference_mode():
        pixels = pictures.float()
        return pixels - coding.head(coding.features(pixels)).float()
