"""Neural Cleanse: find the smallest trigger of every class, and unlearn those that are suspiciously small.

Shape letters: M trusted rows, K classes, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Mended, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Differentiable, Victim
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES

PATIENCE = 5  # steps in a row that change the weight
FACTOR = 1.5  # multiplies the weight; FACTOR ** 1.5 divides it


@dataclass(frozen=True, eq=False, kw_only=True)
class Inverted:
    """A trigger found by inversion.

    Args:
        mask: (1, H, W) in [0, 1].
        pattern: (C, H, W) in 0..255.
        success: share of the rows that get the class with this trigger.
    """

    mask: Tensor
    pattern: Tensor
    success: float

    @property
    def size(self) -> float:
        """L1 norm of the mask: how many pixels it covers."""
        return float(self.mask.sum())

    def on(self, inputs: Tensor) -> Tensor:
        """Return stamped float32 copies."""
        return (1 - self.mask) * inputs.float() + self.mask * self.pattern


@dataclass(frozen=True, kw_only=True)
class Weight:
    """The weight of the mask's size in the loss.

    It is 0 until the class is reached in five steps in a row; then it is `first`. After that it is multiplied by 1.5 after five steps in a row that
    reach the class, and divided by 1.5 ** 1.5 after five in a row that do not.

    Args:
        now: the weight.
        streak: steps in a row since the last change of the weight; positive if they reached the class, negative if not.
    """

    now: float = 0.0
    streak: int = 0

    def after(self, *, reached: bool, first: float) -> Weight:
        """Return the weight after one more step."""
        streak = max(self.streak, 0) + 1 if reached else min(self.streak, 0) - 1
        if abs(streak) < PATIENCE:
            return Weight(now=self.now, streak=streak)
        if self.now == 0:
            return Weight(now=first, streak=1) if reached else Weight()  # the step that sets the weight counts as one of the next five
        return Weight(now=self.now * FACTOR if reached else self.now / FACTOR**1.5)


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse:
    """Invert a trigger for every class from trusted rows, flag classes with unusually small triggers, and unlearn these triggers.

    Source: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P
    2019, and the authors' code.

    The anomaly index of a class is |size - median| / (1.4826 MAD). Classes above `threshold` and below the median are flagged. Unlearning continues
    the training on the trusted rows; a share of them carries the inverted trigger and keeps its true label. The weight of the mask's size in the loss
    changes as in the authors' code (`Weight`), by the default factor of that code (its example for GTSRB uses 2).

    Differences from the authors' code:

    - One step uses all trusted rows of the other classes. There it is 31 batches of 32 test rows of all classes, and `success` is the mean over them.
    - All `steps` are taken, unless `patience` is set. There a search ends once the weight has both risen and fallen and 25 steps found no smaller
      mask. More steps can only find a smaller mask: with patience 25, masks on digits (seed 100) are 0 to 15 % larger, by 3.8 % on average, and 42 %
      of the steps are taken.
    - Mask and pattern start at one half, not at random, so the search needs no seed.

    Not included: mitigation by pruning.

    Args:
        steps: optimisation steps per class, 1 or more.
        lr: learning rate of Adam, on mask and pattern before the tanh, above 0.
        weight: first weight of the mask's size, once the class is reached, above 0 (paper: 1e-3).
        success: share of rows that must get the class, in (0, 1] (paper: 0.99).
        threshold: anomaly index above which a class is flagged (paper: 2).
        stamped: share of the trusted rows that carry the trigger in unlearning, in [0, 1] (paper: 0.2).
        epochs: epochs of the unlearning, 1 or more (paper: 1, on 10 % of the training rows).
        patience: steps without a smaller mask that end a search, 1 or more (authors' code: 25); null: all steps are taken.
    """

    VERSION: ClassVar[int] = 2
    READS: ClassVar[frozenset[str]] = PICTURES
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    steps: int
    lr: float
    weight: float
    success: float
    threshold: float
    stamped: float
    epochs: int
    patience: int | None = field(default=None, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.steps, self.epochs, 1 if self.patience is None else self.patience) < 1 or not (
            self.lr > 0 and self.weight > 0 and 0 < self.success <= 1 and 0 <= self.stamped <= 1
        ):
            raise ConfigError("defense.repair: steps, epochs and patience are 1 or more, lr and weight above 0, success in (0, 1], stamped in [0, 1]")

    def repair(self, victim: Victim, verdict: Verdict | None, means: Means, rng: Key) -> Mended:
        """Return the victim after unlearning, or unchanged if no class is flagged.

        Raises:
            Incompatible: the victim has no gradients.
        """
        if victim.module is None:
            raise Incompatible("defense=neural_cleanse needs a victim with gradients by pixels")
        found = [self.invert(victim.module, means.trusted, label) for label in range(means.trusted.num_classes)]
        indices = anomaly_indices([trigger.size for trigger in found])
        worst = max(range(len(found)), key=lambda label: indices[label])
        flagged = [label for label, index in enumerate(indices) if index > self.threshold]
        figures = {"anomaly_index": indices[worst], "smallest_class": worst, "flagged": len(flagged), "size": found[worst].size}
        if not flagged:
            return Mended(victim=victim, figures=figures)
        rows = self._stamped(means.trusted, [found[label] for label in flagged], rng)
        return Mended(victim=means.tune(victim, rows, epochs=self.epochs), figures=figures)

    def _stamped(self, trusted: Dataset, triggers: Sequence[Inverted], rng: Key) -> Dataset:
        for number, trigger in enumerate(triggers):
            chosen = rng.child(f"stamped/{number}").pick(trusted.ids, round(self.stamped * len(trusted)))
            trusted = trusted.edit(chosen, inputs=trigger.on(trusted.inputs[chosen]).round().clamp(0, 255).to(torch.uint8))
        return trusted

    def invert(self, module: Differentiable, rows: Dataset, label: int) -> Inverted:
        """Return the smallest trigger that gives `label` to a share `success` of the rows, or the last trigger if there is none."""
        inputs = rows.inputs[rows.labels != label].float()
        goal, shape = torch.full((len(inputs),), label), inputs.shape[1:]
        mask, pattern = torch.zeros(1, *shape[1:]).requires_grad_(), torch.zeros(shape).requires_grad_()
        optimizer = torch.optim.Adam([mask, pattern], lr=self.lr, betas=(0.5, 0.9))
        weight, best, idle, moves = Weight(), None, 0, set[bool]()
        for _ in range(self.steps):
            now = Inverted(mask=(mask.tanh() + 1) / 2, pattern=255 * (pattern.tanh() + 1) / 2, success=0.0)
            scores = module(now.on(inputs))
            loss = F.cross_entropy(scores, goal) + weight.now * now.mask.sum()
            mask.grad, pattern.grad = torch.autograd.grad(loss, [mask, pattern])
            optimizer.step()
            success = float((scores.argmax(1) == label).double().mean())
            last = Inverted(mask=now.mask.detach(), pattern=now.pattern.detach(), success=success)
            reached = success >= self.success
            idle += 1
            if reached and (best is None or last.size < best.size):
                best, idle = last, 0
            before, weight = weight, weight.after(reached=reached, first=self.weight)
            moves |= {weight.now > before.now} if before.now not in (0, weight.now) else set()
            if self.patience is not None and len(moves) == 2 and idle >= self.patience:
                break  # the weight has risen and fallen
        return best or last


def anomaly_indices(sizes_K: Sequence[float]) -> list[float]:
    """Return how many scaled median deviations (1.4826 MAD) each size is below the median; negative if it is above."""
    sizes = torch.tensor(sizes_K, dtype=torch.float64)
    middle = sizes.quantile(0.5)
    spread = 1.4826 * (sizes - middle).abs().quantile(0.5)
    return [float(index) for index in (middle - sizes) / spread.clamp_min(1e-12)]
