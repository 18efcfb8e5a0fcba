"""Layers of many networks at once, each member's channels beside those of the next.

Shape letters: G members of a stack, B rows of a member's batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.errors import ConfigError
from poisonbench.nets.net import Normalized

How = Literal["loop", "grouped", "unfold", "vmap"]
PLAIN = (nn.ReLU, nn.GELU, nn.MaxPool2d, nn.Identity)  # act on each number or each map alone


def stacked_layer(layer: nn.Module, members: int, how: How) -> nn.Module:
    """Return a layer for the joined channels of `members` networks; it may be `layer` itself, changed.

    Raises:
        ConfigError: a layer that has no such form.
    """
    for kind, form in FORMS.items():
        if isinstance(layer, kind):
            return form(layer, members, how)
    if isinstance(layer, PLAIN):
        return layer
    if not list(layer.children()):
        raise ConfigError(f"learner.stack={how}: {type(layer).__name__} has no stacked form; use learner.stack=loop")
    for name, child in list(layer.named_children()):
        setattr(layer, name, stacked_layer(child, members, how))
    return layer


def _convolution(layer: nn.Module, members: int, how: How) -> nn.Module:
    assert isinstance(layer, nn.Conv2d)
    if how == "unfold" and layer.groups == 1:
        return _UnfoldedConv(layer, members)
    layer.groups *= members
    layer.in_channels, layer.out_channels = layer.in_channels * members, layer.out_channels * members
    return layer


FORMS: dict[type[nn.Module], Callable[[nn.Module, int, How], nn.Module]] = {
    nn.Conv2d: _convolution,
    nn.GroupNorm: lambda layer, members, how: _OwnGroups(cast("nn.GroupNorm", layer), members),
    nn.BatchNorm2d: lambda layer, members, how: MaskedNorm(cast("nn.BatchNorm2d", layer), members),
    nn.Linear: lambda layer, members, how: _BatchedLinear(cast("nn.Linear", layer), members),
    Normalized: lambda layer, members, how: layer,
}


def _members_first(answers: Tensor) -> Tensor:
    """Return (G, B, ...) unchanged; its gradient gets the same memory layout.

    Otherwise a sum over rows depends on the channel's position in a vector register, and so on the member's position.
    """
    if answers.requires_grad:
        answers.register_hook(Tensor.contiguous)
    return answers


class _BatchedLinear(nn.Module):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, members: int) -> None:
        super().__init__()
        self.members, self.weight = members, layer.weight
        self.register_parameter("bias", cast("nn.Parameter | None", layer.bias))

    def forward(self, inputs: Tensor) -> Tensor:
        own = inputs.unflatten(1, (self.members, -1)).transpose(0, 1).contiguous()
        # weights on the left, so that their gradient has their own layout: transposing it took half of a step's time
        answers = torch.bmm(self.weight.unflatten(0, (self.members, -1)), own.transpose(1, 2)).transpose(1, 2).contiguous()
        answers = answers if self.bias is None else answers + self.bias.view(self.members, 1, -1)
        return _members_first(answers).transpose(0, 1).flatten(1)


class _UnfoldedConv(nn.Module):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d, members: int) -> None:
        super().__init__()
        self.members, self.weight = members, layer.weight
        self.kernel, self.padding, self.stride = layer.kernel_size, cast("tuple[int, int]", layer.padding), layer.stride
        self.register_parameter("bias", cast("nn.Parameter | None", layer.bias))

    def forward(self, inputs: Tensor) -> Tensor:
        own = inputs.unflatten(1, (self.members, -1)).transpose(0, 1)  # (G, B, C, H, W)
        size = [(side + 2 * pad - width) // step + 1 for side, pad, width, step in zip(own.shape[3:], self.padding, self.kernel, self.stride, strict=True)]
        patches = F.unfold(own.flatten(0, 1), self.kernel, padding=self.padding, stride=self.stride).unflatten(0, own.shape[:2])  # (G, B, C k k, H' W')
        rows = patches.transpose(2, 3).flatten(1, 2)
        answers = torch.bmm(self.weight.unflatten(0, (self.members, -1)).flatten(2), rows.transpose(1, 2))  # (G, C', B H' W')
        if self.bias is not None:
            answers = answers + self.bias.view(self.members, -1, 1)
        maps: Tensor = answers.unflatten(2, (own.shape[1], *size))  # (G, C', B, H', W')
        return maps.permute(2, 0, 1, 3, 4).flatten(1, 2)


class _OwnGroups(nn.Module):
    """Group normalisation, separately for each member's rows."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.GroupNorm, members: int) -> None:
        super().__init__()
        self.members, self.groups, self.eps = members, layer.num_groups, layer.eps
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        maps = inputs.unflatten(1, (self.members, -1)).transpose(0, 1).contiguous()  # (G, B, C, ...)
        normal = F.group_norm(maps.flatten(0, 1), self.groups, eps=self.eps).view(maps.shape)
        shape = (self.members, 1, -1, *[1] * (maps.ndim - 3))
        return _members_first(normal * self.weight.view(shape) + self.bias.view(shape)).transpose(0, 1).flatten(1, 2)


class MaskedNorm(nn.Module):
    """Batch normalisation over each member's real rows."""

    mask: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.BatchNorm2d, members: int) -> None:
        super().__init__()
        self.members, self.eps, self.momentum = members, layer.eps, cast("float", layer.momentum)
        self.weight, self.bias = layer.weight, layer.bias
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, G C, H, W) maps, normalised with the statistics of the rows where `mask` (G, B) is true."""
        # channels first in memory: otherwise a sum over positions depends on the channel's position in a vector register
        maps: Tensor = inputs.float().contiguous().unflatten(1, (self.members, -1))  # (B, G, C, H, W)
        real = self.mask.T[:, :, None, None, None].to(maps.dtype)
        count = (real.sum(0).squeeze(-1).squeeze(-1) * maps.shape[3] * maps.shape[4]).clamp_min(1)  # (G, 1)
        mean = (maps * real).sum((0, 3, 4)) / count
        centred = maps - mean[None, :, :, None, None]
        spread = (centred.square() * real).sum((0, 3, 4)) / count
        self._remember(mean.detach(), (spread * count / (count - 1).clamp_min(1)).detach())
        normal = centred * (spread + self.eps).rsqrt()[None, :, :, None, None]
        shape = (1, self.members, -1, 1, 1)
        return (normal * self.weight.view(shape) + self.bias.view(shape)).flatten(1, 2).to(inputs.dtype)

    def _remember(self, mean: Tensor, spread: Tensor) -> None:
        active = self.mask.any(1, keepdim=True)
        for buffer, now in ((self.running_mean, mean), (self.running_var, spread)):
            assert isinstance(buffer, Tensor)
            before = buffer.view(self.members, -1)
            before.copy_(torch.where(active, torch.lerp(before, now, self.momentum), before))
