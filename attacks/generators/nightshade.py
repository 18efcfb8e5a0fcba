"""Nightshade: pictures of a concept whose code is that of another concept, with their own captions.

Shape letters: R pictures, A anchors, D numbers of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.availability.noise import limit_of
from attacks.generators.goals import OfConcept, concept_rows
from poisonbench.core.abilities import Coding
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Differentiable
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.shapes import PICTURE


@dataclass(frozen=True, kw_only=True)
class Nightshade(OfConcept):
    """Move pictures of a concept within the limit of each pixel so that the encoder of the model gives them the code of a picture of the anchor.

    Source: Shan, Ding, Passananti, Wu, Zheng, Zhao, "Nightshade: Prompt-Specific Poisoning Attacks on Text-to-Image Generative Models", IEEE S&P 2024:
    the distance of the codes is minimised under a limit of the change, by steps of the sign of the gradient whose size falls to zero. A person still
    sees the concept; a model that learns from codes learns that its captions mean the anchor.

    Difference: the paper limits a perceptual distance (LPIPS) in its text and each pixel in its released program; here each pixel. The paper generates its
    anchors with the attacked model; here they are training pictures of the anchor. It takes the pictures whose captions fit best; here they are drawn.

    Args:
        concept: number of the attacked class.
        anchor: number of the class that the model shall draw instead.
        anchors: pictures of the anchor; each picture is moved to the one with the nearest code. 1: one code for all, as in the released program.
        steps: of the gradient.
    """

    VERSION: ClassVar[int] = 1
    anchors: int
    steps: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if min(self.anchors, self.steps) < 1:
            raise ConfigError(f"attack.data.anchors={self.anchors}, attack.data.steps={self.steps}: give 1 or more of both")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with moved pictures.

        Raises:
            ConfigError: the budget has no limit of each pixel.
            Incompatible: a surrogate without an encoder of pictures.
        """
        limit = limit_of(known, "linf", "cloaked")

        def moved(rows: Dataset, rng: Key) -> Dataset:
            victim, among = known.fit(known.rows), concept_rows(known, self.anchor, "anchor")
            if not isinstance(victim, Coding):
                raise Incompatible("attack=nightshade needs a model that encodes pictures; choose threat.surrogate=learner=text_to_image, the default")
            module = victim.coding
            chosen = among[rng.child("anchors").pick(known.rows.ids[among], min(self.anchors, len(among)))]
            pictures = cloaked(module, rows.extra[PICTURE], known.rows.extra[PICTURE][chosen], limit, self.steps)
            return rows.edit(torch.arange(len(rows)), **{PICTURE: pictures})

        return self.planted(known, rng, moved, source=self.concept, shown=self.concept)


def cloaked(module: Differentiable, pictures: Tensor, anchors: Tensor, limit: float, steps: int) -> Tensor:
    """Return (R, C, H, W) uint8 pictures whose codes are near those of anchors.

    Args:
        module: its features are codes.
        pictures: (R, C, H, W) uint8.
        anchors: (A, C, H, W) uint8; each picture goes to the one with the nearest code.
        limit: largest change of a pixel, in grey levels.
        steps: of the sign of the gradient; the k-th has the size limit * (1 - k / steps).
    """
    start, noise = pictures.float(), torch.zeros(pictures.shape)
    with torch.no_grad():
        codes, goals = module.features(start), module.features(anchors.float())
    wanted = goals[torch.cdist(codes, goals).argmin(1)]
    for step in range(steps):
        seen = (start + noise).clamp(0, 255).requires_grad_()
        (gradient,) = torch.autograd.grad((module.features(seen) - wanted).square().sum(), seen)
        noise = (noise - limit * (1 - step / steps) * gradient.sign()).clamp(-limit, limit)
    whole = noise.clamp(-limit, limit).trunc()
    return (start + whole).clamp(0, 255).to(torch.uint8)
