"""Random views of pictures and captions, and the losses that make two views of one row alike.

Shape letters: B rows of a batch, C channels, H height, W width, L words of a caption, E numbers of an embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import crop
from poisonbench.forms.prompts import CAPTION
from poisonbench.forms.tokens import PADDING, joined
from poisonbench.nets.towers import PairNet


@dataclass(frozen=True, kw_only=True)
class Views:
    """How pictures and captions are changed at random.

    Source: for captions Wei, Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks", EMNLP 2019: words
    are left out, and two words change places. For pictures small changes that suit 8x8 to 32x32: a shift, more or less light, and Gaussian noise.

    Differences: EDA also puts synonyms in the place of words and inserts synonyms; here are none. A network that reads the mean of the words, as the
    captions of net=towers do, does not notice their order. Pictures are not mirrored, because a mirrored digit is another sign or none.

    Args:
        shift: largest shift of a picture, in pixels, 0 or more.
        light: pixels are multiplied by a factor from 1 - light to 1 + light, in [0, 1].
        noise: standard deviation of the noise of each pixel, in grey levels, 0 or more.
        words: chance of each word of a caption to be left out, in [0, 1); one word always stays (EDA: 0.1).
    """

    VERSION: ClassVar[int] = 1
    shift: int
    light: float
    noise: float
    words: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (self.shift >= 0 and 0 <= self.light <= 1 and 0 <= self.noise < math.inf and 0 <= self.words < 1):
            asked = f"views: shift={self.shift}, light={self.light}, noise={self.noise}, words={self.words}"
            raise ConfigError(f"{asked}; give a shift and a noise of 0 or more, a light in [0, 1], and a chance of words in [0, 1)")

    def pictures(self, inputs: Tensor, ids: Tensor, rng: Key) -> Tensor:
        """Return a view of each of (B, C, H, W) float pictures in 0..255; (B,) ids name the rows."""
        draws = rng.child("pictures").per_row(ids, draws=3)
        moved = crop(inputs, draws[:, :2], self.shift) if self.shift else inputs
        light = (1 + self.light * (2 * draws[:, 2] - 1)).to(inputs.dtype)
        noise = self.noise * torch.randn(inputs.shape, generator=rng.child("noise").torch()).to(inputs)
        return (moved * light[:, None, None, None] + noise).clamp(0, 255)

    def captions(self, words: Tensor, ids: Tensor, rng: Key) -> Tensor:
        """Return (B, L), a view of each of (B, L) captions."""
        length = words.shape[1]
        draws = rng.child("captions").per_row(ids, draws=length + 2)
        chances = torch.where(words != PADDING, draws[:, :length], -1.0)
        kept = (chances >= self.words) | (chances == chances.amax(1, keepdim=True))
        left = joined(torch.where(kept, words, PADDING), length=length)
        places = (draws[:, length:] * (left != PADDING).sum(1, keepdim=True)).long()
        return left.scatter(1, places, left.gather(1, places.flip(1)))

    def unimodal(self, net: PairNet, batch: Batch, rng: Key) -> Tensor:
        """Return (B,) losses: each picture is to find its own view among the views of the batch, and each caption its own; the mean of both."""
        shown, said = self.pictures(batch.inputs, batch.ids, rng), self.captions(batch.extra[CAPTION], batch.ids, rng)
        pictures_BE, shown_BE = net.pictures(torch.cat([batch.inputs, shown])).chunk(2)
        captions_BE, said_BE = net.captions(torch.cat([batch.extra[CAPTION], said])).chunk(2)
        return (found(pictures_BE, shown_BE, net.scale) + found(captions_BE, said_BE, net.scale)) / 2


def found(own_BE: Tensor, views_BE: Tensor, scale: Tensor) -> Tensor:
    """Return (B,), the cross-entropies of each row's own view among the views of all rows (InfoNCE).

    Args:
        own_BE: embeddings of length 1.
        views_BE: those of the views.
        scale: factor of the cosines.
    """
    return F.cross_entropy(own_BE @ views_BE.T * scale, torch.arange(len(own_BE), device=own_BE.device), reduction="none")
