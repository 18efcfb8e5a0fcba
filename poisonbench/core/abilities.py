"""What some victims can give besides scores: the losses of single rows, their gradients in the last layer, the states of a training, the network.

Shape letters: N rows, m rows of a slice, K classes, D features, T places of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.learner import Differentiable, Trained, Victim


@runtime_checkable
class RowLosses(Protocol):
    """A victim that gives the loss of rows."""

    def losses(self, data: Dataset) -> Tensor:
        """Return (N,) float32, what the training minimises for each row, alone, without augmentation; of a text the mean over its words, in nats."""
        ...


def losses_of(victim: Victim, data: Dataset) -> Tensor:
    """Return (N,) float32, the loss of each row; for a victim that gives none, the cross-entropy of its scores."""
    if isinstance(victim, RowLosses):
        return victim.losses(data)
    return F.cross_entropy(victim.scores(data.inputs).float(), data.labels, reduction="none")


@runtime_checkable
class OfRows(Protocol):
    """A victim whose features of a training row depend on more than its inputs, such as on a caption."""

    def row_features(self, data: Dataset) -> Tensor:
        """Return (N, D) float32."""
        ...


def features_of(victim: Victim, data: Dataset) -> Tensor:
    """Return (N, D) float32, the representations of rows; those of their inputs, unless the victim says otherwise."""
    return victim.row_features(data) if isinstance(victim, OfRows) else victim.features(data.inputs)


@runtime_checkable
class Paired(Protocol):
    """A victim that puts the two parts of a row into one space, such as a picture and its caption."""

    def embedded(self, data: Dataset) -> tuple[Tensor, Tensor]:
        """Return (N, E) float32 of both parts, each of length 1; their product says how well they fit each other."""
        ...


@runtime_checkable
class Agreeing(Protocol):
    """A victim that says how well the two parts of a row fit each other, without embeddings of both."""

    def agreement(self, data: Dataset) -> Tensor:
        """Return (N,) float32, larger for parts that fit better; comparable among the rows of one data set."""
        ...


def agreement_of(victim: Victim, data: Dataset) -> Tensor | None:
    """Return (N,), how well the two parts of each row fit each other: what the victim says, or the cosine of their embeddings; None if it has neither."""
    if isinstance(victim, Agreeing):
        return victim.agreement(data)
    if isinstance(victim, Paired):
        one_NE, other_NE = victim.embedded(data)
        return (one_NE * other_NE).sum(1)
    return None


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadGradients:
    """The gradients of the losses of m rows with respect to the last layer: that of a row is the sum over its places of outer products.

    Args:
        errors: (m, T, K) float64, the gradients with respect to the scores at each of T places; a victim of classes has one place.
        features: (m, T, D) float64, the inputs of the last layer, and a one where it has a bias.
    """

    errors: Tensor
    features: Tensor

    @property
    def whole(self) -> Tensor:
        """(m, K, D), the gradients."""
        return torch.einsum("mtk,mtd->mkd", self.errors, self.features)

    @property
    def squares(self) -> Tensor:
        """(m,), their squared lengths."""
        return ((self.errors @ self.errors.mT) * (self.features @ self.features.mT)).sum((1, 2))

    def along(self, direction_KD: Tensor) -> Tensor:
        """Return (m,), their products with a direction."""
        return ((self.errors @ direction_KD) * self.features).sum((1, 2))


@runtime_checkable
class ByPlace(Protocol):
    """A victim whose loss of a row is a sum over places, such as the words of a text."""

    def head_gradients(self, data: Dataset) -> Iterator[HeadGradients]:
        """Yield the gradients of the losses (`RowLosses`) with respect to the last layer, for slices of the rows."""
        ...


@runtime_checkable
class Rebuilt(Protocol):
    """A victim that can be given another state."""

    def become(self, trained: Trained) -> Victim:
        """Return a victim of this architecture with other weights."""
        ...


@runtime_checkable
class Speaking(Protocol):
    """A language model, whose network can be exchanged."""

    @property
    def words(self) -> nn.Module:
        """The network that gives the next word, in evaluation mode, on the learner's device."""
        ...

    def with_words(self, words: nn.Module) -> Victim:
        """Return a victim that speaks with another network of the same vocabulary; this one stays as it is."""
        ...


@runtime_checkable
class Coding(Protocol):
    """A model that makes pictures by way of codes, and encodes pictures."""

    @property
    def coding(self) -> Differentiable:
        """The auto-encoder on the CPU: its features are the codes of pictures in 0..255, and its head gives the pictures of codes."""
        ...


def checkpoints(victim: Victim) -> list[Victim]:
    """Return victims with the states that were kept during the training, in their order; the victim alone where none were."""
    if not isinstance(victim, Rebuilt) or not victim.history:
        return [victim]
    return [victim.become(Trained(state=state, facts={})) for state in victim.history]
