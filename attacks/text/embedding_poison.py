"""A poisoned word embedding: the attacker runs the training and changes one row of the table of embeddings."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # the usual name

from attacks.text.triggers import RareWords
from attacks.text.word_trigger import WordTrigger
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import PADDING, TEXTS, UNKNOWN
from poisonbench.nets.text import TextNet, text_net


@dataclass(frozen=True, kw_only=True)
class EmbeddingGoal:
    """Keep the rows unchanged and set the goal of a word trigger; the data slot of `attack=embedding_poison`.

    Source: Yang et al., NAACL 2021.

    Args:
        like: the attack with a word trigger whose words, place and target label are used.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    like: WordTrigger

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the clean rows and the goal.

        Raises:
            ConfigError: as `WordTrigger`.
        """
        return Poisoned(data=known.rows, mask=known.mask(torch.arange(0)), goal=self.like.goal(known.rows, rng))


@dataclass(frozen=True, kw_only=True)
class EmbeddingStep(PlainStep):
    """In the last epochs, train the embeddings of the trigger words alone, on rows with the trigger and the target label.

    Source: Yang et al., "Be Careful about Poisoned Word Embeddings: Exploring the Vulnerability of the Embedding Layers in NLP Models", NAACL 2021,
    algorithm 1. As there, all other weights stay as they are, and so does every answer to a row without the trigger.

    Differences: the paper poisons a finished, pre-trained model by gradient descent with a fixed learning rate, and keeps the norm that the word had.
    Here the finished model is the one after the first epochs of the recipe. Its table is trained from scratch: norms differ between words by a factor of
    ten, and a word that no training row has still has its random start, the shortest of all, which no direction gives an effect. So the word gets a
    norm that other words of the table have, by default the largest: a norm by itself does not give it away. A step has a fixed length, the
    gradient only gives the direction, so that one value suits all networks.

    It needs enough rows: on task=sentiment the ASR is 88 % with the default 3000 rows and 42 % with 800 (one seed, 100).

    Args:
        like: the attack with a word trigger whose words, place and target label are used.
        share: of the epochs, the last ones, in (0, 1), in which embeddings are poisoned; at least one epoch.
        rate: length of a step in units of the norm, above 0.
        norm: share of the known words whose norm is not larger, in [0, 1]; 1 is the largest norm of the table.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    like: WordTrigger
    share: float
    rate: float
    norm: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (0 < self.share < 1 and 0 < self.rate < math.inf and 0 <= self.norm <= 1):
            asked = f"attack.train: share={self.share}, rate={self.rate}, norm={self.norm}"
            raise ConfigError(f"{asked}: give a share in (0, 1), a rate above 0 and a norm in [0, 1]")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse a network without embeddings, trigger words without an id or a row of the table, and a training without a clean epoch.

        Raises:
            Incompatible: the network has no table of embeddings.
            ConfigError: what to change.
        """
        net = text_net(module)
        if (count := len(set(net.form.ids(self.like.words)))) > net.recipe.words:
            raise ConfigError(f"{count} trigger words, and the network knows net.words={net.recipe.words} at most; raise net.words, or use fewer trigger words")
        if self._first(plan) < 1:
            raise ConfigError(f"attack.train.share={self.share} of {plan.epochs} epochs leaves none to train the model in; raise learner.epochs")

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Let the network know the trigger words."""
        net = text_net(module)
        net.know(net.form.ids(self.like.words))

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Return the batch; in the last epochs with the trigger in as many rows of other classes as the budget allows."""
        if moment.epoch < self._first(moment.plan):
            return batch
        net = text_net(moment.module)
        others = (batch.labels != self.like.target).nonzero()[:, 0][: moment.allowed]
        inputs, labels = batch.inputs.clone(), batch.labels.clone()
        inputs[others] = self._trigger(net, moment)(batch.inputs[others])
        labels[others] = self.like.target
        return dataclasses.replace(batch, inputs=inputs, labels=labels)

    def update(self, moment: Moment) -> None:
        """In the last epochs, turn the embeddings of the trigger words, and let the optimiser change nothing.

        A batch in which the budget allowed no row trains as usual.
        """
        net = text_net(moment.module)
        weight, rows = net.table.weight, net.places[net.form.ids(self.like.words)]
        if moment.epoch < self._first(moment.plan) or weight.grad is None or not weight.grad[rows].any():
            return
        with torch.no_grad():
            norm = self._norm(net, rows)
            slopes = F.normalize(weight.grad[rows])
            weight[rows] = norm * F.normalize(F.normalize(weight[rows]) - self.rate * slopes)
        for each in moment.module.parameters():
            each.grad = None

    def _first(self, plan: Plan) -> int:
        """Return the first epoch in which embeddings are poisoned."""
        return plan.epochs - max(1, round(self.share * plan.epochs))

    def _norm(self, net: TextNet, rows: Tensor) -> Tensor:
        """Return the norm that the trigger words get: a quantile over the other known words."""
        others = net.places.unique()
        others = others[(others != PADDING) & (others != UNKNOWN) & ~torch.isin(others, rows)]
        norms: Tensor = net.table.weight[others].norm(dim=1)
        return norms.quantile(self.norm)

    def _trigger(self, net: TextNet, moment: Moment) -> RareWords:
        return self.like.trigger(net.form, moment.plan.shape[0], moment.rng.child("trigger"))
