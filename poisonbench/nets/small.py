"""Small networks: a few convolutions for 8x8 to 32x32, a multilayer perceptron, and a linear model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.reals import NUMBERS
from poisonbench.nets.net import FeatureNet, NormalizedNet, NormKind, Pool, PooledNet, norm, standardised

LEAST = 8  # channels of a block


@dataclass(frozen=True, kw_only=True)
class SmallCNN:
    """Blocks of 3x3 convolutions, each block at half the resolution of the one before; global pooling; linear head.

    The maximum over positions keeps a small trigger as one large feature, the average dilutes it; docs/findings.md has the effect on
    filters.

    Args:
        widths: channels of each block.
        depths: convolutions in each block, one number per block.
        pool: "max" or "average", over positions, before the head.
        norm: "batch" or "group".
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    pool: Pool
    norm: NormKind

    def __post_init__(self) -> None:
        """Refuse lists that define no network."""
        if len(self.widths) != len(self.depths) or not self.widths or min(*self.widths, *self.depths) < 1:
            raise ConfigError(f"net.widths={list(self.widths)}, net.depths={list(self.depths)}: give both lists one number of 1 or more per block")

    def build(self, like: Dataset) -> NormalizedNet:
        """Return a fresh module.

        Raises:
            ConfigError: inputs that are not images, or too small for the number of blocks.
        """
        shape, least = tuple(like.inputs.shape[1:]), 2 ** (len(self.widths) - 1)
        if len(shape) != 3 or min(shape[1:]) < least:
            raise ConfigError(f"net=small with {len(self.widths)} blocks needs images of {least}x{least} or more, not {shape}; lower net.widths")
        channels, layers = shape[0], list[nn.Module]()
        for block, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            layers += [nn.MaxPool2d(2)] if block else []
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), norm(self.norm, width), nn.ReLU()]
                channels = width
        return standardised(PooledNet(nn.Sequential(*layers), self.pool, nn.Linear(channels, like.num_classes)), like)


@dataclass(frozen=True, kw_only=True)
class PyramidCNN:
    """A small network for images of any size: each block has half the resolution and twice the channels of the block before.

    There are as many blocks as halve the shorter side to `rest` or less, and at least three; the last has `top`
    channels, the first at least eight. So no block costs much more than any other, and an image of 224x224 (six blocks) costs three times
    as many multiplications as one of 32x32 (three blocks); with fixed widths it would be 49 times as many.

    Args:
        top: channels of the last block, at least 8.
        rest: largest side of the last block's maps, in positions.
        pool: "max" or "average", over positions, before the head.
        norm: "batch" or "group".
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    top: int
    rest: int
    pool: Pool
    norm: NormKind

    def __post_init__(self) -> None:
        """Refuse sizes that define no network."""
        if self.top < LEAST or self.rest < 1:
            raise ConfigError(f"net.top={self.top}, net.rest={self.rest}: give {LEAST} channels or more, and a side of 1 or more")

    def widths(self, side: int) -> tuple[int, ...]:
        """Return the channels of each block for images whose shorter side is `side`."""
        halvings = max(2, math.ceil(math.log2(max(side, 1) / self.rest)))
        return tuple(max(LEAST, self.top >> left) for left in reversed(range(halvings + 1)))

    def build(self, like: Dataset) -> NormalizedNet:
        """Return a fresh module.

        Raises:
            ConfigError: inputs that are not images, or too small for three blocks.
        """
        widths = self.widths(min(like.inputs.shape[2:], default=1))
        return SmallCNN(widths=widths, depths=(1,) * len(widths), pool=self.pool, norm=self.norm).build(like)


@dataclass(frozen=True, kw_only=True)
class MLP:
    """A multilayer perceptron on the flattened input; its features are the last hidden layer.

    Args:
        widths: units of each hidden layer.
        norm: "none", or "group": each hidden layer standardised over its own units. There are no batch statistics
            either way.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    widths: tuple[int, ...]
    norm: Literal["none", "group"]

    def __post_init__(self) -> None:
        """Refuse a network without a hidden layer; that is net=linear."""
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"net.widths={list(self.widths)}: give the units of one hidden layer or more, or use net=linear")

    def build(self, like: Dataset) -> NormalizedNet:
        """Return a fresh module."""
        units, layers = math.prod(like.inputs.shape[1:]), list[nn.Module]()
        for width in self.widths:
            layers += [nn.Linear(units, width), nn.GroupNorm(1, width) if self.norm == "group" else nn.Identity(), nn.ReLU()]
            units = width
        return standardised(_Perceptron(nn.Sequential(*layers), nn.Linear(units, like.num_classes)), like)


class _Perceptron(FeatureNet):
    def __init__(self, hidden: nn.Module, last: nn.Linear) -> None:
        super().__init__()
        self.hidden, self.last = hidden, last

    def features(self, inputs: Tensor) -> Tensor:
        """Return the last hidden layer."""
        units: Tensor = self.hidden(inputs.flatten(1))
        return units

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        scores: Tensor = self.last(features)
        return scores


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Multinomial logistic regression on the flattened input; its features are that input.

    Args:
        norm: "none", or "group": each input standardised by its own mean and deviation. There are no batch
            statistics either way.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = NUMBERS
    norm: Literal["none", "group"]

    def build(self, like: Dataset) -> NormalizedNet:
        """Return a fresh module."""
        return standardised(_Linear(math.prod(like.inputs.shape[1:]), like.num_classes, grouped=self.norm == "group"), like)


class _Linear(FeatureNet):
    def __init__(self, width: int, num_classes: int, *, grouped: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width) if grouped else nn.Identity()
        self.last = nn.Linear(width, num_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the flattened input."""
        flat: Tensor = self.norm(inputs.flatten(1))
        return flat

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        scores: Tensor = self.last(features)
        return scores
