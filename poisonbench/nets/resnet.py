"""Pre-activation residual networks for 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.forms.pixels import PICTURES
from poisonbench.nets.net import NormalizedNet, NormKind, Pool, PooledNet, norm, standardised


@dataclass(frozen=True, kw_only=True)
class PreActResNet18:
    """PreAct-ResNet-18 with a 3x3 stem, as backdoor papers train it on CIFAR-10.

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016. Four stages of two
    blocks, 64 to 512 channels. There is a last normalisation and ReLU before the pooling, as in the paper; several
    published ports omit them. 11.17 million parameters at 10 classes.

    Args:
        pool: "max" or "average", over positions, before the head; papers average.
        norm: "batch" or "group".
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    pool: Pool
    norm: NormKind

    def build(self, like: Dataset) -> NormalizedNet:
        """Return a fresh module.

        Raises:
            ConfigError: inputs that are not images of 16x16 or more.
        """
        shape = tuple(like.inputs.shape[1:])
        if len(shape) != 3 or min(shape[1:]) < 16:
            raise ConfigError(f"net=preact_resnet18 is made for images of 32x32 and needs 16x16 or more, not {shape}; use net=small")
        layers: list[nn.Module] = [nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)]
        before = 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [_Block(self.norm, before, width, stride), _Block(self.norm, width, width, 1)]
            before = width
        blocks = nn.Sequential(*layers, norm(self.norm, before), nn.ReLU())
        return standardised(PooledNet(blocks, self.pool, nn.Linear(before, like.num_classes)), like)


class _Block(nn.Module):
    def __init__(self, kind: NormKind, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(norm(kind, channels), nn.ReLU())
        self.rest = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            norm(kind, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
        )
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)
        self.same = same

    def forward(self, inputs: Tensor) -> Tensor:
        active = self.first(inputs)
        # a shortcut that changes the shape uses the activated input, any other the raw input
        passed: Tensor = inputs if self.same else self.shortcut(active)
        rest: Tensor = self.rest(active)
        return passed + rest
