"""The interface of networks: a recipe builds a module with features() and head(); its normalisation is part of the model.

Shape letters: M rows, C channels, D features, K classes.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import Incompatible

NormKind = Literal["batch", "group"]
Pool = Literal["max", "average"]

Says = Literal["classes", "words", "pairs", "pictures", "velocities"]

PREPARE = 5000


class Net(Protocol):
    """A network's recipe, as a frozen dataclass. Weights come from torch's global generator, which the learner seeds."""

    def build(self, like: Dataset) -> FeatureNet:
        """Return a fresh module for rows like these; only their forms, shapes and number of classes count, and there may be no rows."""
        ...


class FeatureNet(nn.Module):
    """A module in two parts, forward(x) = head(features(x)), that takes inputs as `Form.ready` returns them."""

    @property
    def says(self) -> Says:
        """Return what it gives.

        "classes": (M, K) scores. "words": (M, L + 1, V) scores of the next word at each place. "pairs": (M, M) similarities. "pictures": (M, C, H, W)
        pictures like the inputs. "velocities": (M, D), how noisy codes of pictures have to move to fit their captions.
        """
        return "classes"

    @property
    def stackable(self) -> bool:
        """Return whether its layers can be stacked one by one (`learn/stacked.py`)."""
        return True

    @property
    def alone(self) -> bool:
        """Return whether a batch of one row can be trained on."""
        return True

    @property
    def drifts(self) -> bool:
        """Return whether training changes anything but the weights, such as the running statistics of a normalisation."""
        return any(isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None for layer in self.modules())

    def lift(self, inputs: Tensor) -> Tensor:
        """Return inputs as the data set stores them as the floats whose gradient an attack follows: pixels and numbers as they are."""
        return inputs.float()

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D), the inputs of the head."""
        raise NotImplementedError

    def activations(self, inputs: Tensor) -> list[Tensor]:
        """Return the (M, ...) outputs of each block of layers, the features last; by default the features alone."""
        return [self.features(inputs)]

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        raise NotImplementedError

    def prepare(self, inputs: Tensor) -> None:
        """Measure on (N, ...) training inputs as the data set stores them, once, before the first step."""

    def silence(self, channels_D: Tensor) -> None:
        """Make the features where (D,) bool holds zero, now and in later training.

        Raises:
            Incompatible: a network whose features cannot be switched off one by one.
        """
        raise Incompatible(f"{type(self).__name__} has no channels that can be pruned; use a convolutional net")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (M, K) scores."""
        return self.head(self.features(inputs))


class PooledNet(FeatureNet):
    """Convolutions, global pooling, a linear head.

    Args:
        blocks: from (M, C, H, W) to (M, D, h, w).
        pool: "max" or "average", over positions.
        head: from (M, D) to (M, K).
    """

    def __init__(self, blocks: nn.Module, pool: Pool, head: nn.Linear) -> None:
        super().__init__()
        self.blocks = blocks
        self.pool = pool
        self.last = head

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D) pooled activations."""
        return self._pooled(self.blocks(inputs))

    def _pooled(self, maps: Tensor) -> Tensor:
        return maps.amax((2, 3)) if self.pool == "max" else maps.mean((2, 3))

    def activations(self, inputs: Tensor) -> list[Tensor]:
        """Return the last maps of each resolution except the final one, and the features."""
        maps, kept = inputs, list[Tensor]()
        for number, block in enumerate(self.blocks.children()):
            smaller: Tensor = block(maps)
            if number and smaller.shape[2:] != maps.shape[2:]:
                kept.append(maps)
            maps = smaller
        return [*kept, self._pooled(maps)]

    def silence(self, channels_D: Tensor) -> None:
        """Zero scale and shift of these channels in the last normalisation.

        The ReLU after it passes no gradient at zero, so they stay zero in later training.
        """
        last = [layer for layer in self.blocks.modules() if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)][-1]
        with torch.no_grad():
            last.weight[channels_D] = 0.0
            last.bias[channels_D] = 0.0

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        scores: Tensor = self.last(features)
        return scores


class Normalized(nn.Module):
    """Standardise each channel inside the model, so that gradients are those of the pixels.

    Args:
        mean: (C,), subtracted.
        std: (C,), the divisor.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def over(cls, inputs: Tensor) -> Normalized:
        """Measure mean and deviation of each channel over (N, C, ...) training inputs."""
        count, total, square = 0, torch.zeros(inputs.shape[1], dtype=torch.float64), torch.zeros(inputs.shape[1], dtype=torch.float64)
        for part in inputs.split(2000):
            flat = part.to(torch.float64).transpose(0, 1).flatten(1)
            count, total, square = count + flat.shape[1], total + flat.sum(1), square + flat.square().sum(1)
        mean = total / count
        std = (square / count - mean.square()).clamp_min(0).sqrt()
        return cls(mean.float(), torch.where(std > 1e-6, std, 1.0).float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return standardised inputs of the same shape."""
        shape = (1, -1) + (1,) * (inputs.ndim - 2)
        return (inputs - self.mean.view(shape)) / self.std.view(shape)

    def measure(self, inputs: Tensor) -> None:
        """Take mean and deviation from (N, C, ...) training inputs."""
        measured = Normalized.over(inputs)
        self.mean, self.std = measured.mean.to(self.mean), measured.std.to(self.std)


def standardised(net: FeatureNet, like: Dataset) -> NormalizedNet:
    """Return the network that standardises inputs like these, then applies `net`; `prepare` measures the statistics."""
    channels = like.inputs.shape[1]
    return NormalizedNet(Normalized(torch.zeros(channels), torch.ones(channels)), net)


class NormalizedNet(FeatureNet):
    """A network after its normalisation."""

    def __init__(self, normalized: Normalized, net: FeatureNet) -> None:
        super().__init__()
        self.normalized = normalized
        self.net = net

    @property
    def stackable(self) -> bool:
        """Return what the network says."""
        return self.net.stackable

    @property
    def alone(self) -> bool:
        """Return what the network says."""
        return self.net.alone

    @property
    def drifts(self) -> bool:
        """Return what the network says."""
        return self.net.drifts

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D) from pixels."""
        return self.net.features(self.normalized(inputs))

    def activations(self, inputs: Tensor) -> list[Tensor]:
        """Return what the network's blocks give, from pixels."""
        return self.net.activations(self.normalized(inputs))

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores from features."""
        return self.net.head(features)

    def prepare(self, inputs: Tensor) -> None:
        """Measure mean and deviation; let the network measure on up to 5,000 of the inputs, spread evenly and standardised."""
        self.normalized.measure(inputs)
        some = inputs[:: -(-len(inputs) // PREPARE)]
        self.net.prepare(self.normalized(some.float()))

    def silence(self, channels_D: Tensor) -> None:
        """Make these features zero permanently."""
        self.net.silence(channels_D)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (M, K) scores from pixels."""
        scores: Tensor = self.net(self.normalized(inputs))
        return scores


def norm(kind: NormKind, channels: int) -> nn.Module:
    """Return a normalisation layer; "group" has no batch statistics, as DP-SGD and small batches need.

    Groups are the largest divisor of `channels` up to 8, at most channels / 2.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = max(divisor for divisor in range(1, 9) if channels % divisor == 0 and (divisor == 1 or channels // divisor >= 2))
    return nn.GroupNorm(groups, channels)
