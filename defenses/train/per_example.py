"""Per-example gradients for DP-SGD.

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

CHUNK = 1 << 18  # numbers that are squared together while they are in the processor's cache


class RowGradients(NamedTuple):
    """The per-example gradients of one weight.

    Args:
        rows: (B, ...), one gradient per row; overwritten in the next step.
        squares: (B,) their squared norms.
    """

    rows: Tensor
    squares: Tensor


class PerExample:
    """Collects the gradient of each row while a module is trained, until `remove` is called.

    Our own code handles linear layers and plain 2D convolutions; it gives the same bits as Opacus and is faster. A gradient is written once, into
    memory that is reused in every step, and its square is computed while it is in the cache; the gradient of the whole batch is not computed, since
    it is not used. All other layers, and layers that share a weight, use the hooks of Opacus.

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
        """Return the gradients of each trained weight in this step; None where per-example gradients are not available."""
        found = {weight: own for layer in self.layers for weight, own in layer.gradients.items()}
        return [found[weight] if weight in found else _from_opacus(weight) for weight in self.weights]

    def clear(self) -> None:
        """Delete the gradients of this step."""
        for weight in self.weights:
            weight.grad_sample = None  # type: ignore[attr-defined]
        for layer in self.layers:
            layer.gradients = {}

    def remove(self) -> None:
        """Restore the module."""
        self.rest.cleanup()
        for hook in self.hooks:
            hook.remove()
        for layer in self.layers:
            del layer.layer.forward


class _Rest(GradSampleHooks):  # type: ignore[misc]
    """The hooks of Opacus on all layers except `ours`: the candidates among the layers that Opacus would handle."""

    def __init__(self, module: nn.Module, candidates: set[nn.Module]) -> None:
        self.candidates, self.ours = candidates, list[nn.Module]()
        super().__init__(module, loss_reduction="mean", strict=False)

    def iterate_submodules(self, module: nn.Module) -> Iterator[nn.Module]:
        if module in self.candidates:
            self.ours.append(module)
        else:
            yield from super().iterate_submodules(module)


class _Layer:
    """A layer whose `forward` keeps its inputs, and whose backward pass computes per-example gradients from them."""

    def __init__(self, layer: nn.Module) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.layer, self.memory = layer, torch.empty(0)
        self.gradients: dict[Tensor, RowGradients] = {}
        self.original = layer.forward
        layer.forward = self.forward  # type: ignore[assignment, method-assign]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs."""
        if not (self.layer.training and torch.is_grad_enabled()):
            return self.original(inputs)
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
        """Compute the gradients from that of the mean loss with respect to the outputs; if a layer is called twice, they are added.

        They are at least float32: norms of bfloat16 gradients are too small, so a clipped row would exceed the bound.
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
        """Return (B, I, Q) and (B, O, Q); the sums over positions of their products are the gradients."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return inputs.unsqueeze(1).flatten(1, -2).mT, passed.unsqueeze(1).flatten(1, -2).mT
        if len(inputs) == 0:
            return inputs.new_zeros(0, layer.weight[0].numel(), 1), passed.new_zeros(0, layer.out_channels, 1)
        taken_BIQ = unfold2d(inputs, kernel_size=layer.kernel_size, padding=layer.padding, stride=layer.stride, dilation=layer.dilation)
        return taken_BIQ, passed.flatten(2)

    def _room(self, taken_BIQ: Tensor, passed_BOQ: Tensor) -> Tensor:
        """Return (B, O, I) of reused memory: allocating it costs more than the computation."""
        rows = len(passed_BOQ)
        if len(self.memory) < rows or self.memory.dtype != passed_BOQ.dtype:
            self.memory = passed_BOQ.new_empty(rows + rows // 4, passed_BOQ.shape[1], taken_BIQ.shape[1])
        return self.memory[:rows]


def _rows_at_once(rows: Tensor) -> int:
    """Return how many rows are squared together. With several threads the shape changes how a sum is divided, and so its bits."""
    return max(1, CHUNK // rows[0].numel()) if len(rows) and torch.get_num_threads() == 1 else max(1, len(rows))


def _plain(layer: nn.Module) -> bool:
    """Return whether our own code handles the layer."""
    known = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros")
    return known and all(weight.requires_grad for weight in layer.parameters())


def _prepared(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs in the form that the hooks of Opacus need: convolution inputs in NCHW memory, and requiring a gradient."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        # Opacus assumes the strides of NCHW; for channels-last memory it silently computes wrong gradients
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
