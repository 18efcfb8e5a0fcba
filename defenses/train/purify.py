"""Purification: every training picture is changed a little before the training, so that small perturbations lose their effect.

Shape letters: N rows, B pictures, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.train.shortcut_squeezing import jpeg
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Around, Combine, Learner, Trained, Victim
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import Pixels

ROWS = 500


@dataclass(frozen=True, kw_only=True)
class Purify:
    """Compress, blur or disturb every training picture once, and train on the result.

    Source: JPEG, blur and noise are the purifications that attacks on generators are tested against, as in Shan et al., "Nightshade: Prompt-Specific
    Poisoning Attacks on Text-to-Image Generative Models", IEEE S&P 2024.

    All columns of pictures that a model may see are changed: the inputs of a classifier, or the pictures beside the captions of a generator, before
    its encoder makes codes of them. Public and test pictures stay as they are.

    Difference from `shortcut_squeezing`: that one compresses each batch after crop and flip, and sees only what the network is trained on, which are
    codes for a generator.

    Args:
        how: "jpeg", "blur" or "noise".
        quality: of JPEG, 1 to 100.
        sigma: standard deviation of the Gaussian blur, in pixels, above 0.
        deviation: standard deviation of the normal noise, in grey levels, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    how: Literal["jpeg", "blur", "noise"]
    quality: int
    sigma: float
    deviation: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.how not in ("jpeg", "blur", "noise"):
            raise ConfigError(f"defense.train.how={self.how}: choose jpeg, blur or noise")
        if not (1 <= self.quality <= 100 and 0 < self.sigma < math.inf and 0 <= self.deviation < math.inf):
            asked = f"quality={self.quality}, sigma={self.sigma}, deviation={self.deviation}"
            raise ConfigError(f"defense.train: {asked}; quality lies in 1..100, sigma is above 0, deviation is 0 or more, both finite")

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner that trains on purified pictures."""
        return Purified(member=learner, recipe=self)

    def purified(self, pictures: Tensor, ids: Tensor, rng: Key) -> Tensor:
        """Return (N, C, H, W) uint8 pictures; the noise of a row depends on the key and its id."""
        found = [pictures[:0]]
        for rows in torch.arange(len(pictures)).split(ROWS):
            some = pictures[rows].float()
            if self.how == "jpeg":
                changed = jpeg(some, self.quality)
            elif self.how == "blur":
                changed = blurred(some, self.sigma)
            else:
                draws = rng.per_row(ids[rows], draws=some[0].numel()).clamp_min(2.0**-53)
                changed = some + self.deviation * torch.special.ndtri(draws).float().view_as(some)
            found.append(changed.round().clamp(0, 255).to(torch.uint8))
        return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class Purified(Around):
    """The learner that trains on purified pictures.

    Args:
        recipe: the purification.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    recipe: Purify

    @property
    def stages(self) -> frozenset[str]:
        """Those of a learner around another one; a certificate is about the member, if it has one."""
        return super().stages - ({"defense.certify"} - self.member.stages)

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse rows without pictures of one or three channels, and what the member refuses.

        Raises:
            Incompatible: there are no such pictures.
        """
        names = pictures_of(data)
        if not names or any(data.columns[name].shape[1] not in (1, 3) for name in names):
            raise Incompatible("defense=purify changes pictures of one or three channels, and these rows have none; choose a task with pictures")
        self.member.check(data, combine)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Train the member on the purified rows."""
        keys = {name: rng.child(f"purified {name}") for name in pictures_of(data)}
        changed = {name: self.recipe.purified(data.columns[name], data.ids, key) for name, key in keys.items()}
        return self.member.fit(data.with_columns({**data.columns, **changed}), combine, rng, start)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild the member's victim."""
        return self.member.restore(trained, like, combine)


def pictures_of(data: Dataset) -> list[str]:
    """Return the names of the columns of pictures that a model may see."""
    return [name for name, column in data.schema.items() if column.role == "seen" and isinstance(column.form, Pixels)]


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Return (B, C, H, W) pictures after a Gaussian blur, cut off at three standard deviations; the edge is repeated."""
    reach = max(1, math.ceil(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = (weights / weights.sum()).expand(pictures.shape[1], 1, 1, -1)
    padded, groups = F.pad(pictures, (reach,) * 4, mode="replicate"), pictures.shape[1]
    return F.conv2d(F.conv2d(padded, kernel, groups=groups), kernel.mT, groups=groups)
