"""Witches' Brew: poisons whose training gradient matches the one that misclassifies the target.

Shape letters: R poisons, B poisons of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.targeted.aims import Bases, Scene, Wish, clean_label
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Differentiable
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Perturb rows of the wished class so that their training gradient matches that of the target with the wished label.

    Source: Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein, "Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching", ICLR
    2021.

    Minimise 1 - cos(grad L(target, wished), grad L(poisons, their label)), gradients with respect to the surrogates' parameters, by signed Adam on
    the perturbation. The step size falls by a factor of ten at 3/8, 5/8 and 7/8 of the steps. Each batch of poisons is augmented differentiably
    (flip, and shift with bilinear interpolation). Of several restarts, the one with the lowest final loss is kept. Base rows are drawn at random from
    the wished class, as in the authors' code.

    Differences: a step there is 0.1 on normalised pixels, about 6 grey levels, for a limit of 16. Here it is a share of the limit, by default a
    tenth. With steps of 6 grey levels the final loss was the same to 0.002 (digits, 3 targets on seed 100).

    Args:
        wish: the label that the target shall get: "random" among the wrong labels, or the "next" class.
        bases: rows to start from: "random" ones of the wished class (paper), the "nearest" to the target, or the "first".
        steps: steps of Adam, 1 or more (paper: 250).
        step_size: size of one step, as a share of the budget's limit, above 0.
        batch_size: poisons per batch, 1 or more (paper: 512).
        restarts: independent starts, 1 or more (paper: 8).
        surrogates: number of surrogates with different seeds; their losses are averaged (paper: 1).
        shift: largest random shift in pixels, 0 or more (paper: 8).
        flip: mirror left to right at random.
    """

    VERSION: ClassVar[int] = 1
    ONE_TARGET: ClassVar[bool] = True
    READS: ClassVar[frozenset[str]] = PICTURES
    wish: Wish
    bases: Bases
    steps: int
    step_size: float
    batch_size: int
    restarts: int
    surrogates: int
    shift: float
    flip: bool

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.steps, self.batch_size, self.restarts, self.surrogates) < 1 or not self.step_size > 0 or self.shift < 0:
            raise ConfigError("attack.data: steps, batch_size, restarts and surrogates are 1 or more, step_size above 0, shift 0 or more")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many poisons as the budget allows.

        Raises:
            ConfigError: as `clean_label` does.
        """
        return clean_label(self, known, rng)

    def moved(self, scene: Scene, rng: Key) -> Tensor:
        """Return (R, C, H, W) uint8 poisons of the restart with the lowest final loss."""
        wish = torch.tensor([scene.label])
        wanted = [parameter_gradient(module, module.lift(scene.target), wish, graph=False) for module in scene.modules]
        crafted = [self._start(scene, wanted, rng.child(f"restart/{number}")) for number in range(self.restarts)]
        return min(crafted, key=lambda found: found[1])[0]

    def _start(self, scene: Scene, wanted: list[Tensor], rng: Key) -> tuple[Tensor, float]:
        """Return (R, C, H, W) uint8 poisons of one restart and its final loss."""
        limit = scene.limit
        clean, labels = scene.inputs.float(), torch.full((len(scene.inputs),), scene.label)
        noise = (torch.randn(clean.shape, generator=rng.child("start").torch()) * limit).clamp(-limit, limit)
        noise = within(noise, clean, limit).requires_grad_()
        optimizer = torch.optim.Adam([noise], lr=self.step_size * limit)
        falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(self.steps * share) for share in (3 / 8, 5 / 8, 7 / 8)])
        last = 0.0
        for step in range(self.steps):
            gradient, losses = torch.zeros_like(clean), list[float]()
            for part in torch.arange(len(clean)).split(self.batch_size):
                draws = torch.rand(len(part), 3, generator=rng.child(f"augment/{step}/{int(part[0])}").torch())
                shown = augmented((clean + noise)[part], draws, self.shift, flip=self.flip)
                loss = mismatch(scene.modules, wanted, shown, labels[part])
                gradient += torch.autograd.grad(loss, noise)[0]
                losses.append(float(loss.detach()))
            noise.grad = gradient.sign()
            optimizer.step()
            falls.step()
            with torch.no_grad():
                noise.copy_(within(noise, clean, limit))
            last = sum(losses) / len(losses)
        return (clean + noise.detach().trunc()).to(torch.uint8), last


def parameter_gradient(module: Differentiable, inputs: Tensor, labels: Tensor, *, graph: bool) -> Tensor:
    """Return (P,), the gradient of the mean cross-entropy with respect to the parameters; with `graph` it can be differentiated itself."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    loss = F.cross_entropy(module(inputs), labels)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights, create_graph=graph)])


def mismatch(modules: list[Differentiable], wanted: list[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - cosine between the wanted gradient and that of the inputs, averaged over the surrogates; in [0, 2]."""
    own = [parameter_gradient(module, inputs, labels, graph=True) for module in modules]
    return torch.stack([1 - F.cosine_similarity(mine, theirs, dim=0) for mine, theirs in zip(own, wanted, strict=True)]).mean()


def within(noise: Tensor, clean: Tensor, limit: float) -> Tensor:
    """Return the noise clipped to the limit and to pixels in 0..255."""
    return (clean + noise.clamp(-limit, limit)).clamp(0, 255) - clean


def augmented(inputs: Tensor, draws_B3: Tensor, shift: float, *, flip: bool) -> Tensor:
    """Return mirrored and shifted images (bilinear, zeros from outside), differentiable with respect to the pixels.

    Args:
        inputs: (B, C, H, W) float32.
        draws_B3: uniform in [0, 1), for the shift along the width, the shift along the height, and the mirror.
        shift: largest shift, in pixels.
        flip: mirror the images whose draw is below one half.
    """
    height, width = inputs.shape[2:]
    mirror = torch.where((draws_B3[:, 2] < 0.5) & torch.tensor(flip), -1.0, 1.0)
    moves = (2 * draws_B3[:, :2] - 1) * shift * 2 / torch.tensor([width, height])
    zeros, ones = torch.zeros(len(inputs)), torch.ones(len(inputs))
    theta = torch.stack([torch.stack([mirror, zeros, moves[:, 0]], 1), torch.stack([zeros, ones, moves[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, align_corners=False)
