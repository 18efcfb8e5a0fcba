"""Poison Frogs: poisons that look like base rows and have the features of the target.

Shape letters: R poisons, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.targeted.aims import Bases, Scene, Wish, clean_label
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class FeatureCollision:
    """Perturb rows of the wished class, within the budget, so that the features of each equal the target's features.

    Source: Shafahi, Huang, Najibi, Suciu, Studer, Dumitras, Goldstein, "Poison Frogs! Targeted Clean-Label Poisoning Attacks on Neural Networks",
    NeurIPS 2018, Algorithm 1. Each poison starts as its base row with the target laid over it, and minimises ||phi(x) - phi(t)||^2 + penalty / 2 *
    ||x - base||^2 by forward-backward splitting: a gradient step on the features, then the closed form of a step towards the base row. A step that is too
    large is undone, and the step size of that poison falls to `decay` of it. A poison is finished when a step improves the objective by less than
    `tolerance` of it.

    The budget decides the version: with threat.budget.norm=l2 and a penalty it is the paper's, cut to the limit; with norm=linf and no penalty it is that
    of the benchmark of Schwarzschild, Goldblum, Gupta, Dickerson, Goldstein, "Just How Toxic Is Data Poisoning?", ICML 2021: 120 iterations, watermark
    0.3, a limit of 8 grey levels, random base rows.

    Differences: all base rows are moved in one batch, where published code moves one after the other; each keeps its own step size. Several surrogates
    are averaged. A step is too large where the feature distance exceeds the quadratic bound of forward-backward splitting. The published code asks only
    whether the objective rises; a step of twice the right size then jumps from one side of the minimum to the other, and the poison counts as finished.
    The paper's step size suits the scale of its features, and it can only fall; the default here is larger, so that the rule finds a
    fitting one for other networks. The paper adds poisons to the training rows; here they replace their base rows, as in the benchmark.

    Args:
        wish: the label that the target shall get: "random" among the wrong labels (benchmark), the "next" class, or the wrong label that the surrogate
            finds most "likely".
        bases: rows to start from: "random" ones of the wished class, its "first" ones, or the "nearest" to the target in feature space.
        iterations: steps at most, 1 or more (benchmark: 120).
        lr: first step size, on pixels in [0, 1], above 0.
        penalty: weight of the squared distance from the base row, on pixels in [0, 1], 0 or more.
        watermark: share of the target in the start, in [0, 1] (benchmark: 0.3).
        decay: factor on the step size after a step that is undone, in (0, 1).
        tolerance: relative improvement below which a poison is finished, 0 or more.
        surrogates: number of surrogates with different seeds, 1 or more.
        base_class: the wished class, for all targets; null: `wish` chooses it.
    """

    VERSION: ClassVar[int] = 1
    ONE_TARGET: ClassVar[bool] = True
    READS: ClassVar[frozenset[str]] = PICTURES
    wish: Wish
    bases: Bases
    iterations: int
    lr: float
    penalty: float
    watermark: float
    decay: float
    tolerance: float
    surrogates: int
    base_class: int | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.iterations, self.surrogates) < 1 or not (0 < self.lr <= 1e6 and 0 <= self.penalty <= 1e6 and self.tolerance >= 0):
            raise ConfigError(
                "attack.data: iterations and surrogates are 1 or more, lr is above 0, penalty 0 or more, both at most 1e6, tolerance is 0 or more"
            )
        if not 0 <= self.watermark <= 1 or not 0 < self.decay < 1:
            raise ConfigError(f"attack.data.watermark={self.watermark}, attack.data.decay={self.decay}: watermark lies in [0, 1], decay between 0 and 1")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many poisons as the budget allows.

        Raises:
            ConfigError: as `clean_label` does.
        """
        return clean_label(self, known, rng, norms=("linf", "l2"), base_class=self.base_class)

    def moved(self, scene: Scene, rng: Key) -> Tensor:
        """Return (R, C, H, W) uint8 poisons."""
        clean = scene.inputs.float()
        moved = scene.near(torch.lerp(clean, scene.target.float(), self.watermark))
        with torch.no_grad():
            goals = [module.features(module.lift(scene.target)) for module in scene.modules]
        rates_R = torch.full((len(clean),), self.lr)
        going_R = torch.ones(len(clean), dtype=torch.bool)
        apart_R, slope = self._judged(scene, goals, moved)
        losses_R = apart_R + self._away(moved, clean)
        for _ in range(self.iterations):
            rates = rates_R[:, None, None, None]
            stepped = scene.near((moved - rates * slope + rates * self.penalty * clean) / (1 + rates * self.penalty))
            newly_apart_R, new_slope = self._judged(scene, goals, stepped)
            new_R = newly_apart_R + self._away(stepped, clean)
            move = stepped - moved
            bound_R = apart_R + ((slope * move + move.square() / (2 * rates)) / 255**2).flatten(1).sum(1)
            better_R = going_R & (newly_apart_R <= bound_R) & (new_R <= losses_R)
            going_R = going_R & ~(better_R & (losses_R - new_R <= self.tolerance * losses_R))
            rates_R = torch.where(better_R, rates_R, rates_R * self.decay)
            kept = better_R[:, None, None, None]
            moved, slope = torch.where(kept, stepped, moved), torch.where(kept, new_slope, slope)
            apart_R, losses_R = torch.where(better_R, newly_apart_R, apart_R), torch.where(better_R, new_R, losses_R)
            if not going_R.any():
                break
        return scene.stored(moved)

    def _away(self, moved: Tensor, clean: Tensor) -> Tensor:
        """Return (R,), the penalty of each poison."""
        return self.penalty / 2 * ((moved - clean) / 255).square().flatten(1).sum(1)

    def _judged(self, scene: Scene, goals: list[Tensor], moved: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (R,) distances of features, and 255 squared times their gradient by grey levels: what a step of size 1 on pixels in 0..1 moves."""
        pixels = moved.detach().requires_grad_()
        off = [apart(module.features(pixels), goal) for module, goal in zip(scene.modules, goals, strict=True)]
        apart_R = torch.stack(off).mean(0)
        (slope,) = torch.autograd.grad(apart_R.sum(), pixels)
        return apart_R.detach(), 255**2 * slope


def apart(features_RD: Tensor, target_1D: Tensor) -> Tensor:
    """Return (R,), the squared distance of each poison's features from the target's."""
    return (features_RD - target_1D).square().sum(1)
