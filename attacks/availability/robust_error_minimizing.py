"""Robust error-minimizing noise (REM): unlearnable examples that withstand adversarial training.

Shape letters: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.availability.noise import CHUNK, changed, differentiable, limit_of, perturbed, pixel_gradient, shifted
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Differentiable, Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES

DRAWS = 3  # numbers that decide how a row is shifted and mirrored


@dataclass(frozen=True, kw_only=True)
class RobustErrorMinimizing:
    """Add noise that lowers the loss even after a random shift and after the worst change within a small radius.

    Source: Fu, He, Liu, Shen, Tao, "Robust Unlearnable Examples: Protecting Data Privacy Against Adversarial Learning", ICLR 2022.

    For noise u and a surrogate f, minimise over u the mean over transformations t of max over |a| <= radius of loss(f(t(x + u) + a), y). The inner
    maximum is found by signed ascent; then signed gradient steps lower the loss in u, within the Linf limit of the budget. Between these searches the
    surrogate is trained on the perturbed rows and their worst changes.

    Differences: the paper updates the surrogate after each batch, 5,000 times, and draws changes for each. An attacker here gets a trainer, so the
    surrogate trains for whole epochs on rows whose worst changes are those of the surrogate before. The paper crops with padding 4 and mirrors; here
    pictures are shifted by up to `shift` pixels with zeros from outside, and mirrored.

    Args:
        radius: of the worst changes, as a share of the budget's limit, 0 or more (paper: 4 of 8 grey levels, so 0.5).
        ascents: ascent steps for a worst change, 0 or more; each is radius / 5 (paper: 10 steps).
        draws: transformations per gradient step, 1 or more (paper: 5).
        shift: largest shift in pixels, 0 or more (paper: 4).
        steps: gradient steps on the noise in each turn, 1 or more (paper: 10).
        step_size: size of one step, as a share of the budget's limit, above 0 (paper: 0.8 of 8 grey levels, so 0.1).
        turns: turns of surrogate and noise, 1 or more.
        epochs: epochs of the surrogate in each turn, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    radius: float
    ascents: int
    draws: int
    shift: int
    steps: int
    step_size: float
    turns: int
    epochs: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        whole = min(self.draws, self.steps, self.turns, self.epochs) >= 1 and min(self.ascents, self.shift) >= 0
        if not (whole and 0 < self.step_size < math.inf and 0 <= self.radius < math.inf):
            raise ConfigError(
                "attack.data: draws, steps, turns and epochs are 1 or more, ascents and shift 0 or more, step_size above 0 and radius 0 or more, both finite"
            )

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with noise on as many of them as the budget allows.

        Raises:
            ConfigError: the budget has no Linf limit above 0.
        """
        limit = limit_of(known, "linf", "unlearnable")

        def change(rows: Dataset) -> Tensor:
            chosen = torch.isin(known.rows.ids, rows.ids).nonzero()[:, 0]
            noise, victim = torch.zeros(rows.inputs.shape), known.tune(None, known.rows, epochs=self.epochs)
            for turn in range(self.turns):
                noise = self._lowered(victim, rows, noise, limit, rng.child(f"turn/{turn}"))
                if turn + 1 < self.turns:
                    now = rows.edit(torch.arange(len(rows)), inputs=perturbed(rows.inputs, noise.trunc()))
                    victim = known.tune(victim, known.rows.edit(chosen, inputs=self._worst(victim, now, limit)), epochs=self.epochs)
            return perturbed(rows.inputs, noise.trunc())  # whole grey levels; rounding could exceed the limit

        return changed(known, rng, change)

    def _lowered(self, victim: Victim, rows: Dataset, noise: Tensor, limit: float, rng: Key) -> Tensor:
        """Return (N, C, H, W) noise after the gradient steps of one turn."""
        moved = noise.clone()
        for part in torch.arange(len(rows)).split(CHUNK):
            mine = rows.take(part)
            for step in range(self.steps):
                slope = self.slope(victim, mine, moved[part], limit, rng.child(f"step/{step}"))
                moved[part] = (moved[part] - self.step_size * limit * slope.sign()).clamp(-limit, limit)
        return moved

    def slope(self, victim: Victim, rows: Dataset, noise: Tensor, limit: float, rng: Key) -> Tensor:
        """Return the gradient of the loss at the worst changes, summed over the transformations, with respect to the noise."""
        module, total = differentiable(victim), torch.zeros_like(noise)
        for number in range(self.draws):
            draws = rng.child(f"draw/{number}").per_row(rows.ids, draws=DRAWS)

            def view(moved: Tensor, draws: Tensor = draws) -> Tensor:
                seen = shifted(moved, draws, self.shift)
                return (seen + worst_change(module, seen.detach(), rows.labels, self.radius * limit, self.ascents)).clamp(0, 255)

            total += pixel_gradient(victim, rows, noise, view)
        return total

    def _worst(self, victim: Victim, rows: Dataset, limit: float) -> Tensor:
        """Return (N, C, H, W) uint8 pictures with the worst changes for the surrogate."""
        module, parts = differentiable(victim), torch.arange(len(rows)).split(CHUNK)
        found = [worst_change(module, module.lift(rows.inputs[part]), rows.labels[part], self.radius * limit, self.ascents) for part in parts]
        return perturbed(rows.inputs, torch.cat(found))


def worst_change(module: Differentiable, inputs: Tensor, labels: Tensor, radius: float, ascents: int) -> Tensor:
    """Return (N, C, H, W), the changes within the Linf radius that signed ascent finds to raise the loss."""
    change = torch.zeros_like(inputs)
    for _ in range(ascents):
        moved = (inputs + change).clamp(0, 255).requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(module(moved), labels, reduction="sum"), moved)
        change = (change + radius / 5 * slope.sign()).clamp(-radius, radius)
    return change
