"""Differentiable encoders of rows of words: what attacks by gradients see of a retriever.

Shape letters: M rows, L places of a row, V words of the vocabulary, E numbers of an embedding, F numbers of a lifted word, S subwords of a word.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # the usual name

from poisonbench.forms.tokens import SPECIAL


class WordEncoder(nn.Module):
    """An encoder of words. Base class of the encoders in this module and in `bert`.

    `lift` turns each word into numbers, and `features` turns these into one unit vector. A gradient with respect to the lifted words, times `table`,
    estimates to the first order how each word of the vocabulary would change the features (HotFlip; Ebrahimi et al., ACL 2018).
    """

    def lift(self, inputs: Tensor) -> Tensor:
        """Return (M, L, F) floats of (M, L) words; those of padding are 0, and so are those of <unk>, which is left out of a text."""
        raise NotImplementedError

    @property
    def table(self) -> Tensor:
        """Return (V, F), the lifted form of every word."""
        return self.lift(torch.arange(len(self.known))[:, None])[:, 0]

    @property
    def known(self) -> Tensor:
        """Return (V,) bool, the words that may be put in the place of another one, so that `table` tells what that changes."""
        raise NotImplementedError

    def pooled(self, lifted: Tensor) -> Tensor:
        """Return (M, E) unit vectors of lifted words (M, L, F); zeros where no word is known."""
        raise NotImplementedError

    def encoded(self, inputs: Tensor) -> Tensor:
        """Return (M, E) float32 unit vectors of (M, L) words, the bits of each of which depend on its own words alone; without gradients."""
        raise NotImplementedError

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, E) unit vectors of (M, L) words, or of (M, L, F) lifted words; equal to `encoded` up to rounding."""
        return self.pooled(inputs if inputs.is_floating_point() else self.lift(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features; an encoder has no classes to score."""
        return self.features(inputs)

    def head(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features


class Bag(WordEncoder):
    """The sum of the words' vectors, scaled to length 1. The order of words has no effect.

    Args:
        vectors: (V, E) float32; zeros for words that are not known.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)

    @property
    def known(self) -> Tensor:
        """Return the words with a vector that is not 0."""
        return self.vectors.any(1)

    def lift(self, inputs: Tensor) -> Tensor:
        """Return the words' vectors."""
        return self.vectors[inputs]

    def pooled(self, lifted: Tensor) -> Tensor:
        """Return the sum, scaled to length 1."""
        return F.normalize(lifted.sum(1), dim=1)

    def encoded(self, inputs: Tensor) -> Tensor:
        """Return unit vectors, summed word by word in float64: padding adds zeros, and no row adds to another one."""
        total = torch.zeros(len(inputs), self.vectors.shape[1], dtype=torch.float64)
        for place in range(inputs.shape[1]):
            total += self.vectors[inputs[:, place]]
        return F.normalize(total, dim=1).float()


class Weighted(WordEncoder):
    """Counts of words times their weights, scaled to length 1: as many numbers as words.

    Args:
        weights: (V,) float32; 0 for words that are not known.
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    @property
    def known(self) -> Tensor:
        """Return the words with a weight above 0."""
        return self.weights > 0

    @property
    def table(self) -> Tensor:
        """Return (V, V), the weights on a diagonal."""
        return self.weights.diag()

    def lift(self, inputs: Tensor) -> Tensor:
        """Return (M, L, V) the weight of each word at its own place, zeros elsewhere."""
        return F.one_hot(inputs, len(self.weights)) * self.weights[inputs][:, :, None]

    def pooled(self, lifted: Tensor) -> Tensor:
        """Return the sum, scaled to length 1."""
        return F.normalize(lifted.sum(1), dim=1)

    def features(self, inputs: Tensor) -> Tensor:
        """Return unit vectors of (M, L) words or of lifted ones; words are not lifted, which would take L times the memory of the features."""
        if inputs.is_floating_point():
            return self.pooled(inputs)
        return F.normalize(self.weights.new_zeros(len(inputs), len(self.weights)).scatter_add_(1, inputs, self.weights[inputs]), dim=1)

    def encoded(self, inputs: Tensor) -> Tensor:
        """Return unit vectors, in float64 and then rounded."""
        total = torch.zeros(len(inputs), len(self.weights), dtype=torch.float64)
        total.scatter_add_(1, inputs, self.weights[inputs].double())
        return F.normalize(total, dim=1).float()


def unspecial(values: Tensor) -> Tensor:
    """Return (V, ...) values with zeros for padding and for the unknown word, which stands for any word outside the vocabulary."""
    values = values.clone()
    values[: len(SPECIAL)] = 0
    return values
