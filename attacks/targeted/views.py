"""What polytope attacks have in common: the representations that they compare, and the descent on pixels.

Shape letters: M rows, D numbers of a representation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.targeted.aims import Scene
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Differentiable
from poisonbench.core.rng import Key


def check_views(dropout: float, draws: int) -> None:
    """Refuse dropout that is out of range, and several draws of nothing.

    Raises:
        ConfigError: says what to change.
    """
    if not 0 <= dropout < 1 or draws < 1 or (draws > 1 and not dropout):
        raise ConfigError(f"attack.data.dropout={dropout}, attack.data.draws={draws}: dropout lies in [0, 1), draws is 1, or more with a dropout above 0")


def seen(module: Differentiable, inputs: Tensor, *, end_to_end: bool) -> list[Tensor]:
    """Return (M, D) representations of lifted inputs: one for each block of layers, or that of the penultimate layer alone."""
    return [layer.flatten(1) for layer in module.activations(inputs)] if end_to_end else [module.features(inputs)]


def dropped(layers: Sequence[Tensor], dropout: float, draws: int, rng: Key) -> list[Tensor]:
    """Return each representation as the mean over draws of dropout; what is kept is scaled up, so that the expectation stays."""
    if not dropout:
        return list(layers)
    generator = rng.torch()
    kept = [(torch.rand(draws, *layer.shape, generator=generator) >= dropout).float().mean(0) / (1 - dropout) for layer in layers]
    return [layer * mask for layer, mask in zip(layers, kept, strict=True)]


def descended(scene: Scene, loss: Callable[[Tensor, int], Tensor], *, iterations: int, lr: float) -> Tensor:
    """Return (R, C, H, W) uint8 poisons after Adam on all pixels at once, projected onto the budget after each step.

    Args:
        scene: where to start, and the budget.
        loss: of the float poisons and the number of the iteration.
        iterations: 0 or more.
        lr: learning rate of Adam, on pixels in [0, 1].
    """
    moved = scene.inputs.float().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=255 * lr)
    for iteration in range(iterations):
        (moved.grad,) = torch.autograd.grad(loss(moved, iteration), moved)
        optimizer.step()
        with torch.no_grad():
            moved.copy_(scene.near(moved))
    return scene.stored(moved.detach())
