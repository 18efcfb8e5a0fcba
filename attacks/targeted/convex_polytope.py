"""Convex Polytope: poisons whose features have the target's features inside their convex hull.

Shape letters: R poisons, M programmes (surrogates times layers), D features, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.targeted.aims import Bases, Scene, Wish, clean_label
from attacks.targeted.simplex import closest_mixture
from attacks.targeted.views import check_views, descended, dropped, seen
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class ConvexPolytope:
    """Perturb rows of the wished class, within the budget, so that some convex combination of their features equals the target's features.

    Source: Zhu, Huang, Li, Taylor, Studer, Goldstein, "Transferable Clean-Label Poisoning Attacks on Deep Neural Nets", ICML 2019: minimise, over M
    surrogates, the mean of ||phi(t) - sum_j c_j phi(x_j)||^2 / (2 ||phi(t)||^2). Each surrogate has its own coefficients c. Each iteration first solves
    for the coefficients, then makes one step of Adam on the pixels.

    The settings are those of the benchmark of Schwarzschild, Goldblum, Gupta, Dickerson, Goldstein, "Just How Toxic Is Data Poisoning?", ICML 2021:
    1,200 iterations, lr 0.04, beta1 0.9, a limit of 8 grey levels, random base rows. The paper makes 4,000 iterations on 18 surrogates.

    Differences: the authors' code solves for each surrogate's coefficients one after the other, with up to 10,000 steps of projected gradient on the
    features, until the change is below 1e-6. Here all programmes are solved at once from the R x R products of the features, by `solver_steps` steps of
    accelerated projected gradient from the last solution. Between iterations the features change little, so few steps are enough: with 10 and with
    200, the loss of 25 poisons with 128 features differs by less than 1 % of its value (tests/unit/attacks/test_polytopes.py). The learning rate is for
    pixels in [0, 1]; see `bullseye_polytope`. The paper adds dropout to its surrogates; see `bullseye_polytope` for what is dropped here.

    Args:
        wish: the label that the target shall get: "random" among the wrong labels (benchmark), the "next" class, or the wrong label that the surrogate
            finds most "likely".
        bases: rows to start from: "random" ones of the wished class (benchmark), its "first" ones, or the "nearest" to the target in feature
            space.
        iterations: iterations of Adam, 1 or more.
        lr: learning rate of Adam, on pixels in [0, 1], above 0.
        surrogates: number of surrogates with different seeds, 1 or more.
        solver_steps: steps on the coefficients before each step on the pixels, 1 or more.
        end_to_end: compare all blocks of layers, each with its own coefficients, instead of the penultimate layer alone.
        dropout: share of the units that a draw drops, in [0, 1); 0 drops none.
        draws: draws of dropout in each iteration, 1 or more.
        base_class: the wished class, for all targets; null: `wish` chooses it.
    """

    VERSION: ClassVar[int] = 1
    ONE_TARGET: ClassVar[bool] = True
    READS: ClassVar[frozenset[str]] = PICTURES
    wish: Wish
    bases: Bases
    iterations: int
    lr: float
    surrogates: int
    solver_steps: int
    end_to_end: bool
    dropout: float
    draws: int
    base_class: int | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.iterations, self.surrogates, self.solver_steps) < 1 or not 0 < self.lr <= 1e6:
            raise ConfigError("attack.data: iterations, surrogates and solver_steps are 1 or more, lr is above 0, at most 1e6")
        check_views(self.dropout, self.draws)

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many poisons as the budget allows.

        Raises:
            ConfigError: as `clean_label` does.
        """
        return clean_label(self, known, rng, base_class=self.base_class)

    def moved(self, scene: Scene, rng: Key) -> Tensor:
        """Return (R, C, H, W) uint8 poisons."""
        with torch.no_grad():
            goals = [wanted for module in scene.modules for wanted in seen(module, module.lift(scene.target), end_to_end=self.end_to_end)]
        weights_MR = torch.full((len(goals), len(scene.inputs)), 1 / len(scene.inputs))

        def loss(moved: Tensor, iteration: int) -> Tensor:
            nonlocal weights_MR
            layers = [layer for module in scene.modules for layer in seen(module, moved, end_to_end=self.end_to_end)]
            layers = dropped(layers, self.dropout, self.draws, rng.child(f"dropout/{iteration}"))
            products = [layer.detach() @ torch.cat([layer.detach(), goal]).T / size(goal) for layer, goal in zip(layers, goals, strict=True)]
            products_MRX = torch.stack(products)
            weights_MR = closest_mixture(products_MRX[:, :, :-1], products_MRX[:, :, -1], weights_MR, self.solver_steps)
            return torch.stack([off_mixture(*each) for each in zip(layers, goals, weights_MR, strict=True)]).mean()

        return descended(scene, loss, iterations=self.iterations, lr=self.lr)


def size(target_1D: Tensor) -> Tensor:
    """Return the squared norm of the target's features, above 0."""
    return target_1D.square().sum().clamp_min(1e-12)


def off_mixture(features_RD: Tensor, target_1D: Tensor, weights_R: Tensor) -> Tensor:
    """Return half of the squared distance of the weighted mean of the features from the target's, as a share of the squared norm of the latter."""
    return (weights_R @ features_RD - target_1D[0]).square().sum() / (2 * size(target_1D))
