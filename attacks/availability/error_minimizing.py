"""Error-minimizing noise (unlearnable examples): a model learns the noise instead of the pictures.

Shape letters: N rows, K classes, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.availability.noise import CHUNK, limit_of, perturbed, pixel_gradient
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class ErrorMinimizing:
    """Add noise to training images so that a model trained on them learns little else.

    Source: Huang, Ma, Erfani, Bailey, Wang, "Unlearnable Examples: Making Personal Data Unexploitable", ICLR 2021.

    A surrogate and the noise are trained in turns. The surrogate trains on the perturbed rows; then signed gradient steps on the noise lower its
    loss, within the Linf limit of the budget. This ends when the surrogate's error on the perturbed rows is at most `stop_error`, or after `turns`
    turns.

    Differences: in each turn the surrogate trains for whole epochs with its own recipe, augmentation included. In the paper it trains for ten
    batches. The attacker here gets a trainer, not an optimizer.

    Args:
        noise: "sample", one noise per row; or "class", one noise per class, shared by its rows.
        steps: gradient steps on the noise in each turn, 1 or more (paper: 20).
        step_size: size of one step, as a share of the budget's limit, above 0 (paper: 0.8 of 8 grey levels, so 0.1).
        turns: largest number of turns, 1 or more.
        epochs: epochs of the surrogate in each turn, 1 or more.
        stop_error: training error at which the turns end, in [0, 1] (paper: 0.01 sample-wise, 0.1 class-wise).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    noise: Literal["sample", "class"]
    steps: int
    step_size: float
    turns: int
    epochs: int
    stop_error: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.steps, self.turns, self.epochs) < 1 or not self.step_size > 0 or not 0 <= self.stop_error <= 1:
            raise ConfigError("attack.data: steps, turns and epochs are 1 or more, step_size above 0, stop_error in [0, 1]")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with noise on as many of them as the budget allows.

        Raises:
            ConfigError: the budget has no Linf limit above 0.
        """
        rows, limit = known.rows, limit_of(known, "linf", "unlearnable")
        chosen = known.choose(torch.ones(len(rows), dtype=torch.bool), rng.child("rows"))
        if len(chosen) == 0:
            return Poisoned(data=rows, mask=known.mask(chosen), goal=Degrade())
        data, victim = rows, known.tune(None, rows, epochs=self.epochs)
        group = rows.labels[chosen] if self.noise == "class" else torch.arange(len(chosen))
        noise = torch.zeros(int(group.max()) + 1, *rows.inputs.shape[1:])
        for _ in range(self.turns):
            noise = self._lowered(victim, rows.take(chosen), noise, group, limit)
            data = rows.edit(chosen, inputs=perturbed(rows.inputs[chosen], noise[group]))
            victim = known.tune(victim, data, epochs=self.epochs)
            answers = victim.scores(data.inputs[chosen]).argmax(1)
            if (answers != rows.labels[chosen]).double().mean() <= self.stop_error:
                break
        return Poisoned(data=data, mask=known.mask(chosen), goal=Degrade())

    def _lowered(self, victim: Victim, rows: Dataset, noise: Tensor, group: Tensor, limit: float) -> Tensor:
        """Return the noise after one turn of signed gradient steps."""
        for _ in range(self.steps):
            gradient = torch.zeros_like(noise)
            for part in torch.arange(len(rows)).split(CHUNK):
                gradient.index_add_(0, group[part], pixel_gradient(victim, rows.take(part), noise[group[part]]))
            noise = (noise - self.step_size * limit * gradient.sign()).clamp(-limit, limit)
        return noise.trunc()  # whole grey levels; rounding could exceed the limit
