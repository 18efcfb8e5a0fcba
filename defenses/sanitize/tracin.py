"""TracIn: rows with a large influence on their own loss, or a bad one on the loss of trusted rows, are suspicious.

Shape letters: N rows, T trusted rows, M rows, K classes, D features, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.sanitize.dropping import check_dropping, dropped
from poisonbench.core.abilities import ByPlace, HeadGradients
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Differentiable, Victim
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE


@dataclass(frozen=True, kw_only=True)
class TracIn:
    """Drop the rows that the training traces back to: those with the largest influence on themselves, or the worst on trusted rows.

    Source: Pruthi, Liu, Kale, Sundararajan, "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS 2020. The influence of a row z on
    a row z' is the sum over checkpoints of grad L(z) . grad L(z'), which estimates how much steps on z lower the loss of z'. What the defender knows:

    - "self": nothing but the rows. A row with a large influence on its own loss is one that other rows do not explain, such as one with a wrong label.
    - "trusted": clean rows. A row is suspicious if its influence on them, on average, is small or negative: steps on it raise their loss.

    With `layers` "last" the gradients are those of the last layer, in closed form: softmax(scores) - one-hot(label) times the features and a one for the
    bias. For a language model they are those of the output matrix: the sum of such products over the words that are learned, divided by their
    number. "all" takes the gradients of all parameters, with one backward pass for each row and checkpoint.

    Differences: the checkpoints are states of one training that is continued `checkpoints` times, each time with the whole schedule of the recipe; the
    paper takes them from a single training. They have equal weights; the paper multiplies by the learning rate. For the last layer, features less their
    mean over all rows are used, so that a constant added to all features, which the bias would absorb, changes no score.

    Not included: influence on a test row that the defender already suspects; no such row is known before the attack has succeeded.

    Args:
        how: "self" or "trusted".
        layers: "last" or "all".
        checkpoints: number of checkpoints, 1 or more.
        epochs: epochs from one checkpoint to the next, 1 or more.
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        margin: rows removed, as a multiple of expected_rate * N, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    how: Literal["self", "trusted"]
    layers: Literal["last", "all"]
    checkpoints: int
    epochs: int
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    margin: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.how not in ("self", "trusted") or self.layers not in ("last", "all"):
            raise ConfigError(f"defense.sanitize: how={self.how} is self or trusted, layers={self.layers} is last or all")
        if min(self.checkpoints, self.epochs) < 1:
            raise ConfigError(f"defense.sanitize: checkpoints={self.checkpoints}, epochs={self.epochs}; give 1 or more of both")
        check_dropping(self.expected_rate, self.margin)

    def check_trusted(self, trusted: Dataset) -> None:
        """Refuse "trusted" without trusted rows.

        Raises:
            ConfigError: what to set.
        """
        if self.how == "trusted" and len(trusted) == 0:
            raise ConfigError("defense.sanitize.how=trusted needs trusted clean rows; set task.trusted to a share above 0, such as 0.05, or how=self")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Sum over the checkpoints and drop the most suspicious rows.

        Raises:
            ConfigError: all rows would be dropped.
        """
        influence, victim = torch.zeros(len(data), dtype=torch.float64), None
        for turn in range(self.checkpoints):
            victim = means.tune(victim, data, epochs=self.epochs, draw=turn)
            influence += self.influence(victim, data, means.trusted)
        return dropped(influence if self.how == "self" else -influence, self.expected_rate, self.margin)

    def influence(self, victim: Victim, data: Dataset, trusted: Dataset) -> Tensor:
        """Return (N,) float64, the influence of each row at one checkpoint: on itself, or the mean over the trusted rows."""
        if self.layers == "all":
            return _of_all(victim, data, trusted if self.how == "trusted" else None)
        gradients = last_layer_of(victim, data)
        if self.how == "self":
            return torch.cat([part.squares for part in gradients(data)])
        direction_KD = mean_gradient(gradients, trusted)
        return torch.cat([part.along(direction_KD) for part in gradients(data)])


Gradients: TypeAlias = Callable[[Dataset], Iterable[HeadGradients]]


def last_layer_of(victim: Victim, data: Dataset) -> Gradients:
    """Return a function from rows to the gradients of their losses with respect to the last layer.

    Args:
        victim: one that gives these gradients itself, or one of classes.
        data: rows whose features have mean zero after centring, where the last layer has a bias.
    """
    if isinstance(victim, ByPlace):
        return victim.head_gradients
    centre_D = victim.features(data.inputs).double().mean(0)
    return lambda rows: [last_layer(victim, rows, centre_D)]


def mean_gradient(gradients: Gradients, rows: Dataset) -> Tensor:
    """Return (K, D) float64, the mean gradient of rows."""
    return sum((part.whole.sum(0) for part in gradients(rows)), start=torch.zeros(())) / len(rows)


def last_layer(victim: Victim, rows: Dataset, centre_D: Tensor) -> HeadGradients:
    """Return the gradients of the loss of each row with respect to weights and bias of the last layer, for a victim of classes."""
    scores, features = victim.scores(rows.inputs).double(), victim.features(rows.inputs).double() - centre_D
    errors = scores.softmax(1) - F.one_hot(rows.labels, scores.shape[1])
    return HeadGradients(errors=errors[:, None], features=F.pad(features, (0, 1), value=1.0)[:, None])


def _of_all(victim: Victim, data: Dataset, trusted: Dataset | None) -> Tensor:
    """Return (N,) float64, the influence of each row on itself, or on the mean loss of the trusted rows, over all parameters.

    Raises:
        ConfigError: a victim without gradients.
    """
    module = victim.module
    if module is None:
        raise ConfigError("defense.sanitize.layers=all needs a victim with gradients; choose layers=last, or a network such as learner=small")
    wanted = None if trusted is None else weight_gradient(module, trusted.inputs, trusted.labels)
    found = list[Tensor]()
    for place in track(len(data), "rows"):
        own = weight_gradient(module, data.inputs[place : place + 1], data.labels[place : place + 1])
        found.append(own @ (own if wanted is None else wanted))
    return torch.stack(found)


def weight_gradient(module: Differentiable, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return (P,) float64, the gradient of the mean cross-entropy with respect to all trained parameters."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    loss = F.cross_entropy(module(module.lift(inputs)), labels)
    return torch.cat([part.flatten().double().cpu() for part in torch.autograd.grad(loss, weights, materialize_grads=True)])
