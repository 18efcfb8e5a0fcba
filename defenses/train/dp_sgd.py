"""DP-SGD: bounded influence of every row on every step.

Shape letters: B rows of a batch, P parameters.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan
from poisonbench.core.rng import Key

HOOKS = "_dp_sgd_hooks"
# orders of the Renyi divergence to try; those of Opacus end at 63, too few for much noise
ORDERS: dict[str, dict[str, list[float]]] = {
    "rdp": {"alphas": [1 + x / 10 for x in range(1, 100)] + [*range(12, 64), *range(64, 1025, 32), 2048, 4096]},
    "prv": {},
}


@dataclass(frozen=True, kw_only=True)
class PrivateStep(PlainStep):
    """Poisson sampling, per-example clipping, Gaussian noise.

    Source: Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy", CCS 2016;
    per-example gradients and accounting by Opacus; as a defense against poisoning: Ma, Zhu, Hsu, "Data Poisoning against
    Differentially-Private Learners", IJCAI 2019. k poisoned rows move the outcome by no more than group
    privacy at k allows. Each row joins each step with probability q = 1 / steps of an epoch;
    gradients are clipped to `max_grad_norm`, summed, noised, and divided by the expected batch N q. Two things are taken
    as public, as is usual: N, and the input statistics of the normalisation (of patches, for net=fast). The adjacency is add or remove one row.

    Args:
        epsilon: budget to spend over the whole training, above 0.
        delta: below 1 / N.
        max_grad_norm: clipping bound of one row's gradient.
        accountant: "rdp" or "prv".
        sampling: "poisson" alone: no accountant here holds for shuffled batches.
        scale: what the private gradient is multiplied with, after noise. Clipped gradients are smaller than those that a recipe's learning
            rate was chosen for; this leaves the rate to the recipe, as De et al., "Unlocking High-Accuracy Differentially
            Private Image Classification through Scale", 2022, do by dividing by the clipping bound.
    """

    VERSION: ClassVar[int] = 2
    epsilon: float
    delta: float
    max_grad_norm: float
    accountant: Literal["rdp", "prv"]
    sampling: str
    scale: float = field(default=1.0, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not self.epsilon > 0:
            raise ConfigError(f"defense.train.step.epsilon={self.epsilon}: a privacy budget is above 0, such as 3")
        if not (0 < self.delta < 1 and self.max_grad_norm > 0 and self.scale > 0):
            told = f"delta={self.delta} lies in (0, 1), max_grad_norm={self.max_grad_norm} and scale={self.scale} are above 0"
            raise ConfigError(f"defense.train.step: {told}")
        if self.sampling != "poisson":
            raise ConfigError(f"defense.train.step.sampling={self.sampling}: the accountant holds for Poisson sampling alone; set it to poisson")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse a delta that promises nothing, and layers that mix rows.

        Raises:
            ConfigError: what to change.
        """
        if self.delta >= 1 / plan.rows:
            raise ConfigError(f"defense.train.step.delta={self.delta} with {plan.rows} rows: delta stays below 1 / N = {1 / plan.rows:.2g}")
        mixing = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        if mixing:
            raise ConfigError("defense=dp_sgd bounds the influence of single rows, and batch normalisation mixes them; set net.norm=group")

    def begin(self, module: nn.Module) -> None:
        """Attach what collects per-example gradients."""
        from opacus.grad_sample import GradSampleHooks

        # Opacus reads a convolution's input by the strides of NCHW; from channels-last memory it makes wrong gradients, and says nothing
        plain = [layer.register_forward_pre_hook(_in_plain_layout) for layer in module.modules() if isinstance(layer, nn.modules.conv._ConvNd)]
        setattr(module, HOOKS, (GradSampleHooks(module, loss_reduction="mean", strict=False), *plain))

    def sample(self, batches: Iterable[Tensor], plan: Plan, rng: Key) -> Iterable[Tensor]:
        """Return Poisson samples, as many as the plan has steps; a sample may be empty."""
        generator = rng.child("poisson").torch()
        for _ in range(plan.steps):
            yield (torch.rand(plan.rows, generator=generator) < 1 / plan.steps).nonzero()[:, 0]

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the batch with gradients wanted, so that hooks on the first layer see theirs."""
        return dataclasses.replace(batch, inputs=batch.inputs.detach().requires_grad_())

    def update(self, moment: Moment) -> None:
        """Put clipped, noised, averaged gradients in place of the plain ones."""
        weights = [weight for weight in moment.module.parameters() if weight.requires_grad]
        clipped = clipped_sum([weight.grad_sample for weight in weights], self.max_grad_norm)  # type: ignore[attr-defined]
        generator, scale = moment.rng.child("noise").torch(), self.noise(moment.plan) * self.max_grad_norm
        for weight, total in zip(weights, clipped, strict=True):
            noise = torch.randn(total.shape, generator=generator).to(total.device)
            weight.grad = (total + scale * noise) / (moment.plan.rows / moment.plan.steps) * self.scale
            weight.grad_sample = None  # type: ignore[attr-defined]

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Detach, and return what was spent."""
        gradients, *plain = getattr(module, HOOKS)
        gradients.cleanup()
        for hook in plain:
            hook.remove()
        delattr(module, HOOKS)
        noise, rate = self.noise(plan), 1 / plan.steps
        spent = spent_epsilon(self.accountant, noise, rate, plan.epochs * plan.steps, self.delta)
        told = {"epsilon": spent, "delta": self.delta, "noise_multiplier": noise, "sampling_rate": rate}
        return {**told, "max_grad_norm": self.max_grad_norm, "accountant": self.accountant, "adjacency": "add or remove one row"}

    def noise(self, plan: Plan) -> float:
        """Return the noise multiplier that spends epsilon over the whole plan."""
        return noise_for(self.accountant, self.epsilon, self.delta, plan)


def _in_plain_layout(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in inputs)


def clipped_sum(gradients: list[Tensor], bound: float) -> list[Tensor]:
    """Return the sums over rows of per-example gradients (B, ...), each row scaled to a joint norm of at most `bound`."""
    norms_B = torch.stack([part.flatten(1).square().sum(1) for part in gradients]).sum(0).sqrt()
    factors_B = (bound / norms_B.clamp_min(1e-12)).clamp_max(1.0)
    return [torch.einsum("b,b...->...", factors_B, part) for part in gradients]


@lru_cache(maxsize=64)
def noise_for(accountant: str, epsilon: float, delta: float, plan: Plan) -> float:
    """Return the smallest noise multiplier, to within 0.01 of epsilon, that spends no more than epsilon."""
    from opacus.accountants.utils import get_noise_multiplier

    asked = {"target_epsilon": epsilon, "target_delta": delta, "sample_rate": 1 / plan.steps, "steps": plan.epochs * plan.steps}
    with _calm():
        return float(get_noise_multiplier(accountant=accountant, **asked, **ORDERS[accountant]))


def spent_epsilon(accountant: str, noise: float, rate: float, steps: int, delta: float) -> float:
    """Return the epsilon that an accountant of Opacus charges for so many Poisson-sampled Gaussian steps."""
    from opacus.accountants import create_accountant

    ledger = create_accountant(mechanism=accountant)
    ledger.history = [(noise, rate, steps)]
    with _calm():
        return float(ledger.get_epsilon(delta=delta, **ORDERS[accountant]))


@contextmanager
def _calm() -> Iterator[None]:
    """Silence accountants that say their bound could be tighter: it holds all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the (largest|smallest) alpha")
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # log(0) where a distribution has no mass
        yield
