"""DP-SGD: bounded influence of every row on every training step.

Shape letters: B rows of a batch, P parameters.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Moment, PlainStep, Plan, Step
from poisonbench.core.proof import PRIVATE, Tolerance
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.reals import NUMBERS
from poisonbench.nets.net import FeatureNet, NormalizedNet

if TYPE_CHECKING:
    from defenses.train.per_example import PerExample, RowGradients

HOOKS = "_dp_sgd_hooks"
# orders of the Renyi divergence to try; the default ones of Opacus end at 63, too low for much noise
ORDERS: dict[str, dict[str, list[float]]] = {
    "rdp": {"alphas": [1 + x / 10 for x in range(1, 100)] + [*range(12, 64), *range(64, 1025, 32), 2048, 4096]},
    "prv": {},
}
STANDARDISES = (FeatureNet.prepare, NormalizedNet.prepare)  # these measure nothing but what `measured` returns


@dataclass(frozen=True, kw_only=True)
class PrivateStep(PlainStep):
    """Train with DP-SGD: Poisson sampling, per-example clipping and Gaussian noise.

    Source: Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy", CCS 2016; per-example gradients and
    accounting by Opacus; as a defense against poisoning: Ma, Zhu, Hsu, "Data Poisoning against Differentially-Private Learners", IJCAI 2019.

    Each row joins each step with probability q = 1 / steps per epoch. Gradients are clipped to `max_grad_norm`, summed, noised, and divided by N q.
    The adjacency is add or remove one row; a row that is changed or relabelled is one removed and one added, a group of two. k poisoned rows change
    the outcome by at most what group privacy at k allows.

    No setting of the training depends on private rows. N, q and the number of steps are those of the task before poisoning and before any filter,
    and are public (`public_rows`, `sampling_rate` in the record). Input statistics (of patches, for net=fast) are measured on `task.public`. Without
    it, pixels are standardised by constants: mean and deviation of one black and one white picture.

    The draws come from the run's seed, so anyone who knows it can repeat the noise. The epsilon is valid only if the draws are secret: use
    `salt=system`.

    Not included: a cryptographic generator (torch's is not), and protection against leaks of floating-point noise, which the proof does not cover
    (Mironov, "On Significance of the Least Significant Bits for Differential Privacy", CCS 2012).

    Args:
        epsilon: budget of the whole training, above 0.
        delta: in (0, 1), below 1 / N.
        max_grad_norm: clipping bound of the gradient of one row, above 0.
        accountant: "rdp" or "prv".
        sampling: "poisson" only: no accountant here is valid for shuffled batches.
        scale: factor of the private gradient after noise, above 0. Clipped gradients are smaller than those that a recipe's learning rate was
            chosen for. De et al., "Unlocking High-Accuracy Differentially Private Image Classification through Scale", 2022, divide by the
            clipping bound for the same reason.
    """

    VERSION: ClassVar[int] = 3
    READS: ClassVar[frozenset[str]] = NUMBERS  # the vocabulary of a text net is computed from private rows
    TOLERATES: ClassVar[Tolerance] = PRIVATE
    epsilon: float
    delta: float
    max_grad_norm: float
    accountant: Literal["rdp", "prv"]
    sampling: str
    scale: float = field(default=1.0, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not self.epsilon > 0:
            raise ConfigError(f"defense.train.step.epsilon={self.epsilon}: a privacy budget is above 0, such as 3")
        if not (0 < self.delta < 1 and self.max_grad_norm > 0 and self.scale > 0):
            ranges = f"delta={self.delta} lies in (0, 1), max_grad_norm={self.max_grad_norm} and scale={self.scale} are above 0"
            raise ConfigError(f"defense.train.step: {ranges}")
        if self.sampling != "poisson":
            raise ConfigError(f"defense.train.step.sampling={self.sampling}: the accountant holds for Poisson sampling alone; set it to poisson")

    def with_public(self, public: Dataset) -> Step:
        """Return the step that measures input statistics on public rows; without public rows, this step."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(PrivateStep)}
        return MeasuredStep(**values, public=public) if len(public) else self

    def measured(self, data: Dataset) -> Dataset:
        """Return one black and one white picture.

        Raises:
            ConfigError: the inputs are not pixels, so there are no such constants.
        """
        if data.inputs.dtype != torch.uint8:
            raise ConfigError("DP-SGD cannot compute input statistics from private rows, and only pixels have fixed ones to use instead; set task.public=0.1")
        extremes = torch.stack([torch.zeros_like(data.inputs[0]), torch.full_like(data.inputs[0], 255)])
        return Dataset.of(extremes, torch.zeros(2, dtype=torch.int64), num_classes=data.num_classes)

    def planned(self, own: Plan, clean: Plan) -> Plan:
        """Return the plan of the task before poisoning, which is public."""
        return clean

    @property
    def statistics(self) -> str:
        """The source of the input statistics."""
        return "constants of the form"

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check delta, that neither a layer nor the loss mixes rows, and that the network measures no private rows.

        Raises:
            ConfigError: what to change.
            Incompatible: a network that compares the rows of a batch with each other.
        """
        if isinstance(module, FeatureNet) and module.says == "pairs":
            raise Incompatible(
                "defense=dp_sgd bounds the gradient of the loss of each single row, and the loss of a pair depends on the other pairs of its batch; "
                "choose another defense, or a network that gives scores of classes"
            )
        if self.delta >= 1 / plan.rows:
            raise ConfigError(f"defense.train.step.delta={self.delta} with {plan.rows} rows: delta stays below 1 / N = {1 / plan.rows:.2g}")
        mixing = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        if mixing:
            raise ConfigError("defense=dp_sgd bounds the influence of single rows, and batch normalisation mixes them; set net.norm=group")
        self.check_measures(module)
        self.check_followed(module, plan.shape)

    def check_followed(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        """Check that there is a gradient for every row, and that their mean is the gradient of the mean loss.

        Raises:
            ConfigError: names the weights, or states what failed.
        """
        trial, plain, inputs = copy.deepcopy(module).train(), copy.deepcopy(module).train(), torch.randn(3, *shape, generator=Key.root(0).torch())
        remedy = "write it with layers that Opacus knows (opacus.validators.ModuleValidator.fix puts them in), or choose another defense"
        try:
            self.begin(trial, Dataset.of(inputs[:0], torch.zeros(0, dtype=torch.int64), num_classes=2))
            for network in (trial, plain):
                with seeded(Key.root(0)):
                    network(inputs).logsumexp(1).mean().backward()
            followed = getattr(trial, HOOKS).gradients()
        except Exception as error:
            raise ConfigError(f"defense=dp_sgd cannot follow single rows through this network ({type(error).__name__}: {error}); {remedy}") from error
        trained = [(name, weight.grad) for name, weight in plain.named_parameters() if weight.requires_grad]
        wrong = [name for (name, whole), own in zip(trained, followed, strict=True) if not _agree(own, whole, len(inputs))]
        if wrong:
            raise ConfigError(f"defense=dp_sgd cannot follow single rows through the weights {', '.join(wrong)} of this network; {remedy}")

    def check_measures(self, module: nn.Module) -> None:
        """Check that the first layer of the network is not computed from the rows.

        Raises:
            ConfigError: it is, and there are no public rows.
        """
        if any(isinstance(part, FeatureNet) and type(part).prepare not in STANDARDISES for part in module.modules()):
            raise ConfigError("DP-SGD cannot set the first layer of this net from private rows; set task.public=0.1, or choose net=small")

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Attach the hooks that collect per-example gradients."""
        from defenses.train.per_example import PerExample  # Opacus takes 2 s to import

        setattr(module, HOOKS, PerExample(module))

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Yield Poisson samples of the rows, one for each step of the plan; a sample may be empty."""
        generator, rows, steps = moment.rng.child("poisson").torch(), sum(map(len, batches)), moment.plan.steps
        for _ in range(steps):
            yield (torch.rand(rows, generator=generator) < 1 / steps).nonzero()[:, 0]

    def update(self, moment: Moment) -> None:
        """Replace the gradients by clipped, noised and averaged ones."""
        followed: PerExample = getattr(moment.module, HOOKS)
        clipped = clipped_sum([own for own in followed.gradients() if own is not None], self.max_grad_norm)
        generator, scale = moment.rng.child("noise").torch(), self.noise(moment.plan) * self.max_grad_norm
        for weight, total in zip(followed.weights, clipped, strict=True):
            noise = torch.randn(total.shape, generator=generator).to(total.device)
            weight.grad = (total + scale * noise) / (moment.plan.rows / moment.plan.steps) * self.scale
        followed.clear()

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Remove the hooks, and return what was spent."""
        getattr(module, HOOKS).remove()
        delattr(module, HOOKS)
        noise, rate = self.noise(plan), 1 / plan.steps
        spent = spent_epsilon(self.accountant, noise, rate, plan.epochs * plan.steps, self.delta)
        facts: dict[str, object] = {"epsilon": spent, "delta": self.delta, "noise_multiplier": noise, "sampling_rate": rate}
        facts |= {"public_rows": plan.rows, "statistics": self.statistics, "max_grad_norm": self.max_grad_norm, "accountant": self.accountant}
        return {**facts, "adjacency": "add or remove one row"}

    def noise(self, plan: Plan) -> float:
        """Return the noise multiplier that spends epsilon over the whole plan."""
        return noise_for(self.accountant, self.epsilon, self.delta, plan)


@dataclass(frozen=True, kw_only=True)
class MeasuredStep(PrivateStep):
    """The private step that measures input statistics on public rows.

    Source: Abadi et al., CCS 2016.

    Args:
        public: rows that cannot be poisoned and need no privacy.
    """

    VERSION: ClassVar[int] = PrivateStep.VERSION
    public: Dataset

    def with_public(self, public: Dataset) -> Step:
        """Return the step that measures these rows."""
        return dataclasses.replace(self, public=public)

    def measured(self, data: Dataset) -> Dataset:
        """Return the public rows."""
        return self.public

    @property
    def statistics(self) -> str:
        """The source of the input statistics."""
        return "public rows"

    def check_measures(self, module: nn.Module) -> None:
        """Accept every network: it measures only public rows."""


def _agree(own: RowGradients | None, whole: Tensor | None, rows: int) -> bool:
    """Return whether there is a gradient for each of `rows` rows and their mean is the gradient of the mean loss."""
    return own is not None and whole is not None and len(own.rows) == rows and torch.allclose(own.rows.mean(0), whole, rtol=1e-3, atol=1e-5)


def clipped_sum(gradients: Sequence[RowGradients], bound: float) -> list[Tensor]:
    """Return the sums over rows of per-example gradients, each row scaled to a joint norm of at most `bound`."""
    norms_B = torch.stack([part.squares for part in gradients]).sum(0).sqrt()
    factors_B = (bound / norms_B.clamp_min(1e-12)).clamp_max(1.0)
    return [torch.einsum("b,b...->...", factors_B, part.rows) for part in gradients]


@lru_cache(maxsize=64)
def noise_for(accountant: str, epsilon: float, delta: float, plan: Plan) -> float:
    """Return the smallest noise multiplier that spends no more than epsilon, to within 0.01 of epsilon."""
    from opacus.accountants.utils import get_noise_multiplier

    wanted = {"target_epsilon": epsilon, "target_delta": delta, "sample_rate": 1 / plan.steps, "steps": plan.epochs * plan.steps}
    with _calm():
        return float(get_noise_multiplier(accountant=accountant, **wanted, **ORDERS[accountant]))


@lru_cache(maxsize=64)
def spent_epsilon(accountant: str, noise: float, rate: float, steps: int, delta: float) -> float:
    """Return the epsilon that an accountant of Opacus computes for this number of Poisson-sampled Gaussian steps."""
    from opacus.accountants import create_accountant

    ledger = create_accountant(mechanism=accountant)
    ledger.history = [(noise, rate, steps)]
    with _calm():
        return float(ledger.get_epsilon(delta=delta, **ORDERS[accountant]))


def composed(facts: Mapping[str, object], trainings: int) -> dict[str, object]:
    """Return the facts of M equal private trainings on the same rows, from those of one: M trainings of T steps are M T steps.

    If the facts lack what the accountant needs, no epsilon is returned.
    """
    kept = {name: value for name, value in facts.items() if name != "epsilon"}
    if not {"epsilon", "noise_multiplier", "sampling_rate", "steps", "delta", "accountant"} <= facts.keys():
        return kept
    noise, rate, steps, delta = (float(str(facts[name])) for name in ("noise_multiplier", "sampling_rate", "steps", "delta"))
    spent = spent_epsilon(str(facts["accountant"]), noise, rate, trainings * int(steps), delta)
    return {**kept, "epsilon": spent, "epsilon_of_one_member": facts["epsilon"]}


@contextmanager
def _calm() -> Iterator[None]:
    """Silence the accountants' warnings that a bound could be tighter: it is valid nevertheless."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the (largest|smallest) alpha")
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # log(0) where a distribution has no mass
        yield
