"""Friendly noise: every picture gets the largest noise that leaves the model's answer as it is, and random noise besides.

Shape letters: N rows, B rows of a batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Moment, Network, PlainStep, Plan
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES

CHUNK = 500
START = 8.0  # grey levels, the largest noise to start from
MOMENTUM = 0.9
SHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {  # of random noise of size 1, from uniform draws in [0, 1)
    "bernoulli": lambda draws: 2.0 * (draws >= 0.5) - 1,
    "uniform": lambda draws: 2 * draws - 1,
    "gaussian": lambda draws: torch.special.ndtri(draws.clamp_min(1e-12)),
}
STATE = "_friendly_noise"  # attribute of the module: the noise of all rows, or None


class Noise(NamedTuple):
    """The noise of all rows.

    Args:
        ids: (N,) int64, ascending row ids.
        levels: (N, C, H, W) int16, in grey levels.
    """

    ids: Tensor
    levels: Tensor


@dataclass(frozen=True, kw_only=True)
class FriendlyNoiseStep(PlainStep):
    """After some epochs, add to every picture noise that is as large as possible and changes the model's answer as little as possible.

    Source: Liu, Yang, Mirzasoleiman, "Friendly Noise against Adversarial Noise: A Powerful Defense against Data Poisoning Attacks", NeurIPS 2022. A
    poison lies at a sharp bend of the loss, and the noise moves it away from there. For each picture x, SGD with Nesterov momentum on its noise e, on
    pixels in [0, 1], minimises KL(softmax f(x) || softmax f(x + e)) - mu * mean(e^2), for the model f in evaluation mode. The noise starts uniformly in
    8 grey levels and is clipped to `limit` wherever it is used; the learning rate falls by a factor of ten after 1/2 and 3/4 of the steps. Random noise
    is added from the first epoch on, drawn again in every epoch.

    Differences: the noise is rounded to whole grey levels, since it is added to the stored pictures. The paper's learning rate is 100 for the mean over
    batches of 128 pictures; here the rate acts on the loss of one picture, thus 100 / 128. The random noise is added after augmentation, in the published
    code before.

    Args:
        start: epochs before the noise is computed, 1 or more (paper: 5).
        steps: steps of SGD, 1 or more (paper: 30).
        lr: learning rate, for the loss of one picture with pixels in [0, 1], above 0.
        mu: weight of the size of the noise, 0 or more (paper: 1).
        limit: largest noise of a pixel in grey levels, in (0, 255] (paper: 16).
        random: how random noise is drawn: "bernoulli" (paper: plus or minus the size), "uniform" or "gaussian".
        size: of the random noise in grey levels, in [0, 255]; 0 is none (paper: 8).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    start: int
    steps: int
    lr: float
    mu: float
    limit: float
    random: Literal["bernoulli", "uniform", "gaussian"]
    size: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.start, self.steps) < 1 or not (0 < self.lr < math.inf and 0 <= self.mu < math.inf):
            raise ConfigError("defense.train.step: start and steps are 1 or more, lr above 0 and mu 0 or more, both finite")
        if not (0 < self.limit <= 255 and 0 <= self.size <= 255):
            raise ConfigError(f"defense.train.step: limit={self.limit} lies in (0, 255], size={self.size} in [0, 255]")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse inputs that are not pictures, and a training that ends before the noise is computed.

        Raises:
            ConfigError: what to change.
            Incompatible: the inputs have no grey levels.
        """
        if len(plan.shape) != 3:
            raise Incompatible(f"friendly noise changes pixels; this learner's model sees inputs of shape {plan.shape}")
        if plan.epochs <= self.start:
            raise ConfigError(f"defense.train.step.start={self.start}: the training has {plan.epochs} epochs; give fewer than that")

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Start without noise."""
        setattr(module, STATE, None)

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Compute the noise of all rows before epoch `start`; the plan stays as it is."""
        if moment.epoch == self.start:
            setattr(moment.module, STATE, self.computed(moment.module, data, moment.rng.child("friendly")))
        return batches

    def computed(self, module: nn.Module, data: Dataset, rng: Key) -> Noise:
        """Return the noise of all rows, for the model in evaluation mode."""
        order = data.ids.argsort()
        chunks, found = order.split(CHUNK), list[Tensor]()
        module.eval()
        for place in track(len(chunks), "friendly noise"):
            some = data.take(chunks[place])
            draws = rng.per_row(some.ids, draws=some.inputs[0].numel()).view(some.inputs.shape).float()
            found.append(self.descended(module, data.form.ready(some.inputs), (2 * draws - 1) * START))
        module.train()
        return Noise(ids=data.ids[order], levels=torch.cat(found).round().to(torch.int16))

    def descended(self, network: Network, inputs: Tensor, noise: Tensor) -> Tensor:
        """Return (B, C, H, W) noise in grey levels after all steps, clipped to the limit; (B, C, H, W) `noise` is the start."""
        with torch.no_grad():
            answers = network(inputs).float().log_softmax(1)
        moved = (noise / 255).requires_grad_()
        descent = torch.optim.SGD([moved], lr=self.lr, momentum=MOMENTUM, nesterov=True)
        falls = torch.optim.lr_scheduler.MultiStepLR(descent, [self.steps // 2, self.steps // 4 * 3])
        for _ in range(self.steps):
            losses = unfriendliness(network, inputs, answers, moved.clamp(-self.limit / 255, self.limit / 255), self.mu)
            (moved.grad,) = torch.autograd.grad(losses.sum(), moved)
            descent.step()
            falls.step()
        return (255 * moved.detach()).clamp(-self.limit, self.limit)

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Return the stored pictures with the noise of their rows, once it is computed."""
        noise: Noise | None = getattr(moment.module, STATE)
        if noise is None:
            return batch
        levels = noise.levels[torch.searchsorted(noise.ids, batch.ids)]
        return dataclasses.replace(batch, inputs=(batch.inputs.to(torch.int16) + levels).clamp(0, 255).to(batch.inputs.dtype))

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the pictures with random noise."""
        draws = moment.rng.child("random noise").per_row(batch.ids, draws=batch.inputs[0].numel()).view(batch.inputs.shape)
        return dataclasses.replace(batch, inputs=batch.inputs + self.size * SHAPES[self.random](draws).to(batch.inputs.dtype))

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Return the mean size of the friendly noise in grey levels."""
        noise: Noise | None = getattr(module, STATE)
        delattr(module, STATE)
        return {} if noise is None else {"friendly_noise": float(noise.levels.abs().double().mean())}


def unfriendliness(network: Network, inputs: Tensor, answers_BK: Tensor, noise: Tensor, mu: float) -> Tensor:
    """Return the (B,) losses that the noise minimises.

    Args:
        network: from pixels in 0..255 to scores.
        inputs: (B, C, H, W) pixels in 0..255.
        answers_BK: logarithms of the probabilities without noise.
        noise: (B, C, H, W), for pixels in [0, 1].
        mu: weight of its size.
    """
    moved = network((inputs + 255 * noise).clamp(0, 255)).to(answers_BK.dtype).log_softmax(1)
    divergence = (answers_BK.exp() * (answers_BK - moved)).sum(1)
    return divergence - mu * noise.square().flatten(1).mean(1)
