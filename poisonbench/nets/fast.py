"""A network that learns 32x32 images in few epochs: whitened patches, then convolutions that are initialised near the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.forms.pixels import PICTURES
from poisonbench.nets.net import FeatureNet, NormalizedNet, NormKind, Pool, PooledNet, norm, standardised

PATCH = 2


@dataclass(frozen=True, kw_only=True)
class FastCNN:
    """Whitened 2x2 patches, three blocks of two 3x3 convolutions each, global pooling, linear head.

    The design follows the public speed records on CIFAR-10 (Page, "How to train your ResNet", 2018; Jordan, "94%
    on CIFAR-10 in 3.29 seconds", 2024), in our own code. The first layer is fixed: it contains the eigenvectors of the
    training rows' 2x2 patches, each with both signs, scaled to unit variance. Every other convolution starts as the
    identity on its first channels. The scale of the normalisation is fixed, its shift is learned. The scores are scaled
    down. Pooling rounds up: an odd map would otherwise lose its last row and column, where many triggers are.

    Args:
        widths: channels of each block; each block halves the image.
        pool: "max" or "average", over positions, before the head.
        norm: "batch" or "group".
        scale: factor on the scores of the head.
        whiten_eps: added to the eigenvalues, in units of standardised pixels squared.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    widths: tuple[int, ...]
    pool: Pool
    norm: NormKind
    scale: float
    whiten_eps: float

    def __post_init__(self) -> None:
        """Refuse widths that define no network."""
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"net.widths={list(self.widths)}: give one number of 1 or more per block")

    def build(self, like: Dataset) -> NormalizedNet:
        """Return a fresh module; its first layer is set by `prepare`.

        Raises:
            ConfigError: inputs that are not images, or too small for the number of blocks.
        """
        shape, least = tuple(like.inputs.shape[1:]), 2 ** len(self.widths) + 1
        if len(shape) != 3 or min(shape[1:]) < least:
            raise ConfigError(f"net=fast with {len(self.widths)} blocks needs images of {least}x{least} or more, not {shape}; lower net.widths")
        whiten = _Whiten(shape[0], self.whiten_eps)
        channels, layers = whiten.out_channels, list[nn.Module]([whiten, nn.GELU()])
        for width in self.widths:
            layers += [_near_identity(channels, width), nn.MaxPool2d(2, ceil_mode=True), _shift_only(self.norm, width), nn.GELU()]
            layers += [_near_identity(width, width), _shift_only(self.norm, width), nn.GELU()]
            channels = width
        pooled = PooledNet(nn.Sequential(*layers), self.pool, nn.Linear(channels, like.num_classes, bias=False))
        return standardised(_Fast(whiten, pooled, self.scale), like)


class _Fast(FeatureNet):
    """Pooled features with a mask: GELU passes gradients at zero, so a silenced channel would learn again."""

    alive: Tensor

    def __init__(self, whiten: _Whiten, pooled: PooledNet, scale: float) -> None:
        super().__init__()
        self.pooled, self.scale = pooled, scale
        self._whiten = [whiten]  # in a list, so that it is not registered twice
        self.register_buffer("alive", torch.ones(pooled.last.in_features))

    def prepare(self, inputs: Tensor) -> None:
        """Set the first layer from (N, C, H, W) standardised inputs."""
        self._whiten[0].set_from(inputs)

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D) pooled activations."""
        return self.pooled.features(inputs) * self.alive

    def activations(self, inputs: Tensor) -> list[Tensor]:
        """Return the maps of the blocks, and the features."""
        *maps, features = self.pooled.activations(inputs)
        return [*maps, features * self.alive]

    def silence(self, channels_D: Tensor) -> None:
        """Set these features to zero permanently."""
        self.alive[channels_D] = 0.0

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        return self.pooled.head(features) * self.scale


class _Whiten(nn.Conv2d):
    """The eigenvectors of patches and their negatives; weights are fixed, the shift is learned."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels, 2 * channels * PATCH**2, PATCH)
        self.eps = eps
        self.weight.requires_grad_(False)

    def set_from(self, inputs: Tensor) -> None:
        patches = F.unfold(inputs, PATCH).transpose(1, 2).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # the sign of an eigenvector is arbitrary
        filters = (vectors * signs / (values.clamp_min(0) + self.eps).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        with torch.no_grad():
            self.weight.copy_(torch.cat([filters, -filters]))


def _near_identity(channels: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:channels])
    return conv


def _shift_only(kind: NormKind, width: int) -> nn.Module:
    layer = norm(kind, width)
    layer.weight.requires_grad_(False)
    return layer
