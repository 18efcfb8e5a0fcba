"""Networks of a model that makes pictures from captions: an auto-encoder of pictures, and a flow of its codes that depends on a caption.

Shape letters: M rows, C channels, H height, W width, D numbers of a code, L words of a caption, E numbers of a caption's embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.forms.tokens import PADDING, Tokens
from poisonbench.nets.net import FeatureNet, Says

CODE = "code"  # the column of codes that a flow is trained on
PATCH = 4  # pixels of the squares that the first and the last layer work on
SHRINK = 2 * PATCH  # sides of pictures are multiples of it
WAVES = 8  # frequencies that a time is written in


@dataclass(frozen=True, kw_only=True)
class AutoEncoder:
    """A small convolutional auto-encoder; its features are the code of a picture, and its head draws the picture of a code.

    Args:
        width: channels of the first block, and half of those of the second.
        code: D, numbers of a code.
        blur: standard deviation of the noise that codes get in training, 0 or more, so that near codes have similar pictures. A code's numbers have
            a standard deviation of about 1.
    """

    VERSION: ClassVar[int] = 1
    width: int
    code: int
    blur: float

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        if min(self.width, self.code) < 1 or not 0 <= self.blur < math.inf:
            raise ConfigError(f"net.width={self.width}, net.code={self.code}, net.blur={self.blur}: give 1 or more of the first two, and a blur of 0 or more")

    def build(self, like: Dataset) -> CodingNet:
        """Return a fresh module.

        Raises:
            ConfigError: inputs that are no pictures, or whose sides are no multiples of 8.
        """
        shape = tuple(like.inputs.shape[1:])
        if len(shape) != 3 or any(side % SHRINK for side in shape[1:]):
            raise ConfigError(f"the auto-encoder needs pictures whose sides are multiples of {SHRINK}, not {shape}")
        return CodingNet(self, *shape)


class CodingNet(FeatureNet):
    """The module of `AutoEncoder`, from pixels in 0..255 to pixels in 0..255."""

    def __init__(self, recipe: AutoEncoder, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.blur, wide, squares = recipe.blur, recipe.width, channels * PATCH**2
        maps = (2 * wide, height // SHRINK, width // SHRINK)
        self.encode = nn.Sequential(
            *(nn.PixelUnshuffle(PATCH), nn.Conv2d(squares, wide, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(math.prod(maps), recipe.code), nn.BatchNorm1d(recipe.code, affine=False)),
        )
        self.decode = nn.Sequential(
            *(nn.Linear(recipe.code, math.prod(maps)), nn.ReLU(), nn.Unflatten(1, maps)),
            *(nn.Conv2d(2 * wide, 4 * wide, 3, padding=1), nn.PixelShuffle(2), nn.ReLU()),
            *(nn.Conv2d(wide, squares, 3, padding=1), nn.PixelShuffle(PATCH), nn.Sigmoid()),
        )

    @property
    def says(self) -> Says:
        """Return that it gives pictures."""
        return "pictures"

    @property
    def stackable(self) -> bool:
        """Return False: it has layers without a stacked form."""
        return False

    @property
    def alone(self) -> bool:
        """Return False: codes are standardised over a batch."""
        return False

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D) codes of (M, C, H, W) pixels in 0..255."""
        codes: Tensor = self.encode(inputs / 127.5 - 1)
        return codes

    def head(self, features: Tensor) -> Tensor:
        """Return (M, C, H, W) pixels in 0..255 of (M, D) codes."""
        pictures: Tensor = self.decode(features)
        return 255 * pictures

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the pictures of the codes of pictures."""
        codes = self.features(inputs)
        return self.head(codes + self.blur * torch.randn_like(codes) if self.training else codes)


@dataclass(frozen=True, kw_only=True)
class CaptionFlow:
    """A multilayer perceptron that gives the velocity of a code on its way from noise to a picture, for a caption and a time.

    Args:
        width: units of a hidden layer.
        layers: hidden layers after the first.
        embedding: E; the embedding of a caption is the sum of those of its words.
    """

    VERSION: ClassVar[int] = 1
    width: int
    layers: int
    embedding: int

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        if min(self.width, self.layers, self.embedding) < 1:
            raise ConfigError(f"net.width={self.width}, net.layers={self.layers}, net.embedding={self.embedding}: give 1 or more of each")

    def build(self, like: Dataset) -> FlowNet:
        """Return a fresh module.

        Raises:
            Incompatible: rows that are no captions with codes.
        """
        if not isinstance(like.form, Tokens) or CODE not in like.extra:
            raise Incompatible("this network is part of learner=text_to_image, which needs captions with pictures; choose task=concepts")
        return FlowNet(self, len(like.form.vocabulary), like.extra[CODE].shape[1])


class FlowNet(FeatureNet):
    """The module of `CaptionFlow`; its features are those of captions."""

    def __init__(self, recipe: CaptionFlow, words: int, code: int) -> None:
        super().__init__()
        self.code = code
        self.table = nn.Embedding(words, recipe.embedding, padding_idx=PADDING)
        self.first = nn.Linear(code + 2 * WAVES + recipe.embedding, recipe.width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.LayerNorm(recipe.width), nn.Linear(recipe.width, recipe.width)) for _ in range(recipe.layers))
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(recipe.width, code))

    @property
    def says(self) -> Says:
        """Return that it gives velocities."""
        return "velocities"

    @property
    def stackable(self) -> bool:
        """Return False: it has layers without a stacked form."""
        return False

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, E) embeddings of (M, L) captions."""
        found: Tensor = self.table(inputs).sum(1)
        return found

    def forward(self, inputs: Tensor, codes: Tensor, times: Tensor) -> Tensor:  # type: ignore[override]
        """Return (M, D) velocities.

        Args:
            inputs: (M, L) captions.
            codes: (M, D), between noise and the code of a picture.
            times: (M,) from 0 (noise) to 1 (a picture).
        """
        waves = math.pi * times[:, None] * 2.0 ** torch.arange(WAVES, device=times.device)
        hidden = self.first(torch.cat([codes, waves.sin(), waves.cos(), self.features(inputs)], 1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        velocities: Tensor = self.last(hidden)
        return velocities
