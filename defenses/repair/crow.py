"""CROW: fine-tuning that keeps the states of consecutive layers alike, on embeddings that are moved to make them differ.

Shape letters: B texts of a batch, L places, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.defense import Means, Mended, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Moment, Network, Objective, PlainStep, Plan, Victim
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import PADDING, TEXTS, whole_texts
from poisonbench.nets.gpt import WordNet, begun


@dataclass(frozen=True, kw_only=True)
class Crow:
    """Continue to train a language model on trusted rows, with a penalty on states that change much from layer to layer.

    Source: Min, Pham, Li, Sun, "CROW: Eliminating Backdoors from Large Language Models via Internal Consistency Regularization", ICML 2025 (arXiv
    2411.12768): triggers are said to make the states of consecutive layers differ. The penalty is the mean of 1 - cos(H_l, H_l+1) over the places of
    the text and over consecutive layers. The embeddings are first moved by `radius` times the sign of the gradient of the penalty, and the training
    minimises the loss of the texts as they are plus `weight` times the penalty of the moved ones.

    Differences: all weights are trained, with the recipe of the victim; the paper trains adapters of low rank. The paper's models have 32 layers or
    more; the states of a model of two layers have one transition. `fine_tune` is the control: the same training without the penalty.

    Args:
        epochs: passes over the trusted rows, 1 or more (paper: 3).
        weight: of the penalty, 0 or more (paper: 5.5, and 11 against refusals).
        radius: how far each number of an embedding is moved, 0 or more (paper: 0.1).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    epochs: int
    weight: float
    radius: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.epochs < 1 or not (0 <= self.weight < math.inf and 0 <= self.radius < math.inf):
            asked = f"epochs={self.epochs}, weight={self.weight}, radius={self.radius}"
            raise ConfigError(f"defense.repair: {asked}; give 1 epoch or more, and finite numbers of 0 or more")

    def repair(self, victim: Victim, verdict: Verdict | None, means: Means, rng: Key) -> Mended:
        """Return the fine-tuned victim.

        Raises:
            Incompatible: the victim is no language model of two layers or more.
        """
        step = ConsistentStep(weight=self.weight, radius=self.radius)
        return Mended(victim=means.tune(victim, means.trusted, epochs=self.epochs, step=step))


@dataclass(frozen=True, kw_only=True)
class ConsistentStep(PlainStep):
    """Add the penalty of CROW to the objective.

    Source: Min et al., ICML 2025.

    Args:
        weight: of the penalty.
        radius: how far each number of an embedding is moved.
    """

    VERSION: ClassVar[int] = 1
    weight: float
    radius: float

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse all but language models.

        Raises:
            Incompatible: says what to choose.
        """
        if not isinstance(module, WordNet):
            raise Incompatible("defense=crow compares the layers of a language model, and this network gives classes; use learner=language")

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective with the penalty."""
        assert isinstance(moment.module, WordNet), "check says so"
        return Consistent(inner=objective, module=moment.module, weight=self.weight, radius=self.radius)


@dataclass(frozen=True, eq=False, kw_only=True)
class Consistent:
    """An objective, plus the penalty.

    Args:
        inner: the objective.
        module: the model in training.
        weight: of the penalty.
        radius: how far each number of an embedding is moved.
    """

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "words"
    inner: Objective
    module: WordNet
    weight: float
    radius: float

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        texts, _ = whole_texts(batch.inputs, batch.extra.get("response"))
        return self.inner(network, batch, label_smoothing) + self.weight * self.penalty(texts)

    def penalty(self, texts: Tensor) -> Tensor:
        """Return (B,) the penalties of moved texts."""
        words, real = begun(texts), F.pad(texts != PADDING, (1, 0), value=True)
        still = torch.zeros_like(self.module.layer_states(words)[0], requires_grad=True)
        (slope,) = torch.autograd.grad(inconsistency(self.module.layer_states(words, still), real).sum(), still)
        return inconsistency(self.module.layer_states(words, self.radius * slope.sign()), real)


def inconsistency(states: Sequence[Tensor], real: Tensor) -> Tensor:
    """Return (B,), the mean of 1 - cos over the places of each text and over consecutive layers.

    Args:
        states: (B, L, D) each, of the embeddings, which do not count, and of two layers or more.
        real: (B, L) bool, the places in use.

    Raises:
        Incompatible: a single layer, which has no other to compare with.
    """
    if len(states) < 3:
        raise Incompatible("defense=crow compares consecutive layers, and this network has one; set net.layers to 2 or more")
    apart = 1 - torch.stack([F.cosine_similarity(one, other, dim=2) for one, other in pairwise(states[1:])]).mean(0)
    return (apart * real).sum(1) / real.sum(1)
