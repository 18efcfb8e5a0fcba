"""Influence ranking: rows whose training steps raise the loss of trusted rows are suspicious.

Shape letters: N rows, K classes or words, D features, d dimensions of the projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from defenses.sanitize.dropping import check_dropping, dropped
from defenses.sanitize.tracin import Gradients, last_layer_of
from poisonbench.core.abilities import checkpoints
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGES, number_of, stage_of
from poisonbench.core.threat import POISON_RATE


@dataclass(frozen=True, kw_only=True)
class InfluenceRank:
    """Drop the rows with the most harmful influence on trusted rows, or with the largest influence on themselves.

    The estimator is TracInCP of Pruthi, Liu, Kale, Sundararajan, "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS 2020,
    section 3, restricted to the last layer, with equal weights of the checkpoints, on randomly projected gradients (section 4 there):

        influence(z) = sum over checkpoints of P g(z) . mean over trusted rows z' of P g(z'),

    where g is the gradient of the loss of a row with respect to the weights of the last layer, and P is a matrix of d x (K D) normal draws with
    variance 1/d, a new one for each checkpoint. The loss of a text is the mean over the words that are learned, so g is the sum over them of
    (softmax(scores) - one-hot(word)) outer state, divided by their number. It is neither an influence function nor a leave-one-out retraining.

    Source: besides Pruthi et al., Johnson and Lindenstrauss, "Extensions of Lipschitz Mappings into a Hilbert Space", 1984: a product of projected
    gradients u and v has the mean u . v and the variance (|u|^2 |v|^2 + (u . v)^2) / d. The matrix takes 8 d K D bytes.

    Checkpoints are the models that one training keeps: `learner.history_every=1` keeps one for each epoch; with learner=tuned it is
    `learner.finetuning.history_every=1`. A training that keeps none, such as one
    of a single epoch, has one checkpoint, its end. `tracin` continues a training instead.

    Differences: the paper weighs checkpoints by their learning rates. With a head that shares its weights with the embeddings, the part of
    the gradient that goes through the embeddings is left out. The paper shows influence on single test rows; a defender has none, so it is the mean
    over trusted rows here.

    Against retrainings without single rows (`python -m benchmarks influence_loo`: 200 instructions, a transformer of width 16, 40 rows, 6 random starts), the
    rank correlation of the estimate with the change of the loss is 0.49 [0.19, 0.70] after a training by SGD, where the loss of the row has 0.19
    [-0.16, 0.50]. After one by AdamW, as the recipes of language models have it, it is 0.02 [-0.28, 0.33]. The changes of two halves of the starts do not
    agree after either training (SGD -0.02 [-0.34, 0.32], AdamW 0.11 [-0.24, 0.42]), so 6 starts do not show what the estimate is worth.

    Many dimensions are needed where the products of poisoned and clean rows differ little, because the projection errs by the root of the variance
    above. The trusted rows of different stages of a language model can pull in different directions: a refusal and a direct answer to a restricted
    prompt have opposite gradients. `stage` then chooses the rows to compare with. No committed record has this filter yet.

    Args:
        how: "trusted", where a small or negative influence is suspicious, or "self", on the row itself, where a large one is.
        stage: for "trusted", the trusted rows of this stage alone, such as "safety"; null: all trusted rows.
        dimensions: d, 1 or more; null: exact products, without a projection.
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        margin: rows removed, as a multiple of expected_rate * N, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    how: Literal["trusted", "self"]
    stage: str | None
    dimensions: int | None
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    margin: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.how not in ("trusted", "self"):
            raise ConfigError(f"defense.sanitize.how={self.how}: choose trusted or self")
        if self.stage is not None:
            number_of(self.stage, "defense.sanitize.stage")
        if self.dimensions is not None and self.dimensions < 1:
            raise ConfigError(f"defense.sanitize.dimensions={self.dimensions}: give 1 or more, or null")
        check_dropping(self.expected_rate, self.margin)

    def check_trusted(self, trusted: Dataset) -> None:
        """Refuse "trusted" without trusted rows.

        Raises:
            ConfigError: what to set.
        """
        if self.how == "trusted" and len(self.compared(trusted)) == 0:
            which = "trusted clean rows" if self.stage is None else f"trusted clean rows of the stage {self.stage}"
            raise ConfigError(f"defense.sanitize.how=trusted needs {which}; set task.trusted to a share above 0, such as 0.05, or how=self")

    def compared(self, trusted: Dataset) -> Dataset:
        """Return the trusted rows that the influence is on."""
        return trusted if self.stage is None else trusted.take(stage_of(trusted) == STAGES.index(self.stage))

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Sum over the checkpoints and drop the most suspicious rows.

        Raises:
            ConfigError: all rows would be dropped.
        """
        suspicion = torch.zeros(len(data), dtype=torch.float64)
        for number, victim in enumerate(checkpoints(means.fit(data))):
            suspicion += self.suspicion(victim, data, self.compared(means.trusted), rng.child(f"checkpoint/{number}"))
        return dropped(suspicion, self.expected_rate, self.margin)

    def suspicion(self, victim: Victim, data: Dataset, trusted: Dataset, rng: Key) -> Tensor:
        """Return (N,) float64, what one checkpoint says of each row."""
        gradients = last_layer_of(victim, data)
        sketches = sketched(gradients, data, self.dimensions, rng)
        if self.how == "self":
            return sketches.square().sum(1)
        return -sketches @ sketched(gradients, trusted, self.dimensions, rng).mean(0)


def sketched(gradients: Gradients, rows: Dataset, dimensions: int | None, rng: Key) -> Tensor:
    """Return (N, d) float64 projected gradients of rows, or (N, K D) ones as they are; equal keys project in the same way."""
    found, matrix = list[Tensor](), None
    for part in gradients(rows):
        flat = part.whole.flatten(1)
        if dimensions is not None and matrix is None:
            draws = torch.randn(flat.shape[1], dimensions, generator=rng.child("projection").torch(), dtype=torch.float64)
            matrix = draws / math.sqrt(dimensions)
        found.append(flat if matrix is None else flat @ matrix)
    return torch.cat(found)
