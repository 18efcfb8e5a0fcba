"""Gradients of single rows, for DP-SGD to clip.

Shape letters: B rows of a batch, I inputs and O outputs of a layer at each of its Q positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.utils.tensor_utils import unfold2d
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 1 << 18  # numbers that are squared while they still lie in the processor's cache


class RowGradients(NamedTuple):
    """The gradients of one weight.

    Args:
        rows: (B, ...), one gradient a row; overwritten in the next step.
        squares: (B,) their squared norms.
    """

    rows: Tensor
    squares: Tensor


class PerExample:
    """Collects the gradient of each row while a module is trained, until `remove`.

    Linear layers and plain convolutions over pictures are handled by our own code, which gives the bits of Opacus and is faster: a gradient is
    written once, into memory that is kept from step to step, and squared while it lies in the cache; the gradient of
    the whole batch, which nobody reads, is not computed. All other layers, and those that share a weight, are left to the hooks of Opacus.

    Args:
        module: the network; its loss is a mean over the rows, and every step ends with `clear`.
    """

    def __init__(self, module: nn.Module) -> None:
        uses = Counter(weight for layer in module.modules() for weight in layer.parameters(recurse=False))
        self.weights = [weight for weight in module.parameters() if weight.requires_grad]
        self.rest = _Rest(module, {layer for layer in module.modules() if _plain(layer) and all(uses[weight] == 1 for weight in layer.parameters())})
        self.layers = [_Layer(layer) for layer in self.rest.ours]
        left = [layer for layer in module.modules() if layer not in self.rest.ours and next(layer.parameters(recurse=False), None) is not None]
        self.hooks = [layer.register_forward_pre_hook(_prepared) for layer in left]

    def gradients(self) -> list[RowGradients | None]:
        """Return what each weight that is trained got in this step; None where rows could not be followed."""
        found = {weight: own for layer in self.layers for weight, own in layer.gradients.items()}
        return [found[weight] if weight in found else _from_opacus(weight) for weight in self.weights]

    def clear(self) -> None:
        """Forget the gradients of this step."""
        for weight in self.weights:
            weight.grad_sample = None  # type: ignore[attr-defined]
        for layer in self.layers:
            layer.gradients = {}

    def remove(self) -> None:
        """Leave the module as it was."""
        self.rest.cleanup()
        for hook in self.hooks:
            hook.remove()
        for layer in self.layers:
            del layer.layer.forward


class _Rest(GradSampleHooks):  # type: ignore[misc]
    """The hooks of Opacus on all layers but those in `ours`, which are removed from the layers that Opacus follows."""

    def __init__(self, module: nn.Module, candidates: set[nn.Module]) -> None:
        self.candidates, self.ours = candidates, list[nn.Module]()
        super().__init__(module, loss_reduction="mean", strict=False)

    def iterate_submodules(self, module: nn.Module) -> Iterator[nn.Module]:
        if module in self.candidates:
            self.ours.append(module)
        else:
            yield from super().iterate_submodules(module)


class _Layer:
    """A layer whose `forward` keeps what goes in, and whose backward pass makes gradients of single rows from it."""

    def __init__(self, layer: nn.Module) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.layer, self.memory = layer, torch.empty(0)
        self.gradients: dict[Tensor, RowGradients] = {}
        self.asked = layer.forward
        layer.forward = self.forward  # type: ignore[assignment, method-assign]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs."""
        if not (self.layer.training and torch.is_grad_enabled()):
            return self.asked(inputs)
        if self.gradients:
            raise RuntimeError("a second pass through the network before the gradients of the first were clipped")
        weight, bias = self.layer.weight.detach(), None if self.layer.bias is None else self.layer.bias.detach()
        if isinstance(self.layer, nn.Linear):
            outputs = F.linear(inputs, weight, bias)
        else:
            inputs = inputs.contiguous()
            outputs = self.layer._conv_forward(inputs, weight, bias)
        outputs = outputs if outputs.requires_grad else outputs.requires_grad_()  # the first layer
        outputs.register_hook(partial(self._note, inputs.detach()))
        return outputs

    def _note(self, inputs: Tensor, backward: Tensor) -> None:
        """Make the gradients, given that of the mean loss by the outputs; a layer that is called twice adds them up.

        They are float32 at least: norms of bfloat16 gradients are too small, and a clipped row would exceed the bound.
        """
        exact = torch.promote_types(backward.dtype, torch.float32)
        taken_BIQ, passed_BOQ = self._pairs(inputs.to(exact), backward.to(exact) * len(inputs))
        weight, again = self.layer.weight, bool(self.gradients)
        rows = self._room(taken_BIQ, passed_BOQ)
        squares, step = rows.new_empty(len(rows)), _rows_at_once(rows)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            rows[part].baddbmm_(passed_BOQ[part], taken_BIQ[part].mT, beta=float(again))
            squares[part] = rows[part].flatten(1).square().sum(1)
        found = {weight: RowGradients(rows.view(len(rows), *weight.shape), squares)}
        if self.layer.bias is not None:
            shifts = passed_BOQ.sum(2) + (self.gradients[self.layer.bias].rows if again else 0.0)
            found[self.layer.bias] = RowGradients(shifts, shifts.square().sum(1))
        self.gradients = found

    def _pairs(self, inputs: Tensor, passed: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, I, Q) and (B, O, Q), whose products by position add up to the gradients."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return inputs.unsqueeze(1).flatten(1, -2).mT, passed.unsqueeze(1).flatten(1, -2).mT
        if len(inputs) == 0:
            return inputs.new_zeros(0, layer.weight[0].numel(), 1), passed.new_zeros(0, layer.out_channels, 1)
        taken_BIQ = unfold2d(inputs, kernel_size=layer.kernel_size, padding=layer.padding, stride=layer.stride, dilation=layer.dilation)
        return taken_BIQ, passed.flatten(2)

    def _room(self, taken_BIQ: Tensor, passed_BOQ: Tensor) -> Tensor:
        """Return (B, O, I) of memory that is kept: fresh memory costs more than what is computed in it."""
        rows = len(passed_BOQ)
        if len(self.memory) < rows or self.memory.dtype != passed_BOQ.dtype:
            self.memory = passed_BOQ.new_empty(rows + rows // 4, passed_BOQ.shape[1], taken_BIQ.shape[1])
        return self.memory[:rows]


def _rows_at_once(rows: Tensor) -> int:
    """Return how many rows are squared in one go. Several threads share a sum by its shape, and other shapes would give other bits."""
    return max(1, CHUNK // rows[0].numel()) if len(rows) and torch.get_num_threads() == 1 else max(1, len(rows))


def _plain(layer: nn.Module) -> bool:
    """Tell whether a layer is one that we follow ourselves."""
    known = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros")
    return known and all(weight.requires_grad for weight in layer.parameters())


def _prepared(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs as the hooks of Opacus want them: a convolution's in NCHW, and with a gradient to wait for."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        # Opacus reads them by the strides of NCHW; from channels-last memory it makes wrong gradients, and says nothing
        inputs = tuple(tensor.contiguous() for tensor in inputs)
    if not torch.is_grad_enabled() or any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in inputs):
        return inputs
    return tuple(tensor.detach().requires_grad_() if isinstance(tensor, Tensor) and tensor.is_floating_point() else tensor for tensor in inputs)


def _from_opacus(weight: nn.Parameter) -> RowGradients | None:
    rows = getattr(weight, "grad_sample", None)
    if not isinstance(rows, Tensor):
        return None
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return RowGradients(rows, rows.flatten(1).square().sum(1))
