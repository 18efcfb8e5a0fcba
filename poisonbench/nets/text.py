"""Networks for rows of words: the mean of embeddings, convolutions over words, a small transformer.

Shape letters: M rows, L places of a row, V words of the vocabulary, E numbers of an embedding, F filters, T words in all, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # the usual name

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.forms.tokens import PADDING, SPECIAL, TEXTS, UNKNOWN, Tokens, trimmed
from poisonbench.forms.words import words_form
from poisonbench.nets.net import FeatureNet

READER = ("a network for text", "net")  # for errors
FAINT = 1e-30  # in place of the zeros of a word whose embedding is zero, since a row of zeros is padding; adds nothing to any other number


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the recipes of this module have in common: a table of embeddings, initialised at random and trained from scratch.

    With SGD, a word's embedding is changed only by the few steps whose rows contain the word. So it needs a larger learning rate than the other
    weights: embeddings are `scale` times the table, which makes their learning rate scale ** 2 times that of the recipe.

    Args:
        width: E, numbers of an embedding.
        min_count: how often a word has to occur in the training rows, so that the network knows it; all others are read as <unk>.
        words: how many words the network knows at most, the most frequent ones. Every step of SGD moves the whole table, so a small one is faster.
        dropout: share of the features that is set to zero in training, in [0, 1).
        scale: embeddings are this times the table, above 0.
        spread: standard deviation of the embeddings at the start, 0 or more; a small one lets rare words say little.
        norm: "none", or "group": the features of each row standardised over their own units, as ensembles and DP-SGD ask of every network.
    """

    READS: ClassVar[frozenset[str]] = TEXTS
    width: int
    min_count: int
    words: int
    dropout: float
    scale: float
    spread: float
    norm: Literal["none", "group"] = field(default="none", metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        if min(self.width, self.min_count, self.words) < 1 or not (0 <= self.dropout < 1 and self.scale > 0 and self.spread >= 0):
            asked = f"net.width={self.width}, min_count={self.min_count}, words={self.words}, dropout={self.dropout}, scale={self.scale}, spread={self.spread}"
            raise ConfigError(f"{asked}: give whole numbers of 1 or more, a dropout in [0, 1), a scale above 0 and a spread of 0 or more")


class TextNet(FeatureNet):
    """A network that starts with a table of embeddings. Base class of the networks in this module.

    The vocabulary of a task has the words of all its rows, test rows included. A network knows only words of its own training rows: `prepare` counts
    them, and all other words are read as <unk>.

    It takes (M, L) words, or their (M, L, E) embeddings as `lift` returns them, where a place whose embedding is all zeros is padding.

    Args:
        recipe: the common part of its recipe.
        form: the vocabulary.
        features: D.
        num_classes: K.
    """

    places: Tensor
    alive: Tensor

    def __init__(self, recipe: Embedded, form: Tokens, features: int, num_classes: int) -> None:
        super().__init__()
        self.recipe, self.form = recipe, form
        words = len(form.vocabulary)
        self.table = nn.Embedding(min(words, recipe.words + len(SPECIAL)), recipe.width, padding_idx=PADDING)
        self.last = nn.Linear(features, num_classes)
        with torch.no_grad():
            self.table.weight.mul_(recipe.spread / recipe.scale)
        rows = torch.arange(words)
        self.register_buffer("places", torch.where(rows < self.table.num_embeddings, rows, UNKNOWN))
        self.register_buffer("alive", torch.ones(features))
        self.standard = nn.GroupNorm(1, features) if recipe.norm == "group" else nn.Identity()

    @property
    def stackable(self) -> bool:
        """Return False: a table of embeddings has no stacked form."""
        return False

    def prepare(self, inputs: Tensor) -> None:
        """Count the words of all (N, L) training rows, and give the table's rows to the most frequent ones, in the order of their frequency."""
        counts = torch.bincount(inputs.flatten(), minlength=len(self.places))
        counts[[PADDING, UNKNOWN]] = 0
        ranked = counts.argsort(descending=True, stable=True)[: self.table.num_embeddings - len(SPECIAL)]
        frequent = ranked[counts[ranked] >= self.recipe.min_count]
        places = torch.full_like(counts, UNKNOWN)
        places[PADDING] = PADDING
        places[frequent] = torch.arange(len(frequent), device=places.device) + len(SPECIAL)
        self.places.copy_(places)

    @property
    def known(self) -> Tensor:
        """Return (V,) bool, the words that are not read as <unk>."""
        return self.places != UNKNOWN

    def know(self, ids: Sequence[int]) -> None:
        """Make words known. They get the last rows of the table that none of them has; other words there, the rarest, become unknown."""
        assert len(set(ids)) <= self.table.num_embeddings - len(SPECIAL), "the caller checks that the table has rows for all"
        new = [word for word in dict.fromkeys(ids) if not self.known[word]]
        rows = torch.arange(len(SPECIAL), self.table.num_embeddings, device=self.places.device)
        rows = rows[~torch.isin(rows, self.places[list(ids)])]
        rows = rows[len(rows) - len(new) :]
        self.places[torch.isin(self.places, rows)] = UNKNOWN
        self.places[new] = rows

    def read(self, inputs: Tensor) -> Tensor:
        """Return (M, l) rows of the table for (M, L) words, without the columns at the end that are padding in all rows; l >= 1."""
        return self.places[trimmed(inputs)]

    def lift(self, inputs: Tensor) -> Tensor:
        """Return (..., E), the embeddings of (...) words; only those of padding are all zeros."""
        words = self.embedded(self.places[inputs])
        zeros = (inputs != PADDING) & ~words.any(-1)
        return words + FAINT * zeros[..., None]

    @property
    def vectors(self) -> Tensor:
        """(V, E), the embedding of every word of the vocabulary, as `lift` returns it."""
        return self.lift(torch.arange(len(self.places), device=self.places.device)).detach()

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D) from (M, L) int64 token ids or (M, L, E) embeddings."""
        summary = self.combined(*shortened(inputs)) if inputs.is_floating_point() else self.summary(self.read(inputs))
        features: Tensor = self.standard(summary)
        return features * self.alive

    def summary(self, ids_ML: Tensor) -> Tensor:
        """Return (M, D) from (M, L) rows of the table."""
        return self.combined(self.embedded(ids_ML), ids_ML != PADDING)

    def combined(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
        """Return (M, D) from (M, L, E) embeddings; `real_ML` is false at padding."""
        raise NotImplementedError

    def embedded(self, ids_ML: Tensor) -> Tensor:
        """Return (M, L, E); the embedding of padding is zero."""
        words: Tensor = self.table(ids_ML) * self.recipe.scale
        return words

    def silence(self, channels_D: Tensor) -> None:
        """Set these features to zero permanently."""
        self.alive[channels_D] = 0.0

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        scores: Tensor = self.last(F.dropout(features, self.recipe.dropout, self.training))
        return scores


def shortened(words_MLE: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M, l, E) embeddings without the columns at the end that are padding in all rows, and (M, l) bool, false at padding; l >= 1."""
    real_ML = words_MLE.detach().any(2)
    used = real_ML.any(0).nonzero()[:, 0]
    length = int(used[-1]) + 1 if len(used) else 1
    return words_MLE[:, :length], real_ML[:, :length]


def text_net(module: nn.Module) -> TextNet:
    """Return the network of words in a module.

    Raises:
        Incompatible: there is none.
    """
    found = next((part for part in module.modules() if isinstance(part, TextNet)), None)
    if found is None:
        raise Incompatible("this network has no table of word embeddings; use net=text_cnn, mean_embedding or text_transformer")
    return found


@dataclass(frozen=True, kw_only=True)
class MeanEmbedding(Embedded):
    """The mean of the embeddings of a row's words, then a linear head. The order of words has no effect.

    Source: the unweighted average in Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", ACL 2015, without
    hidden layers.
    """

    VERSION: ClassVar[int] = 1

    def build(self, like: Dataset) -> FeatureNet:
        """Return a fresh module.

        Raises:
            ConfigError: the rows are not words.
        """
        return _Mean(self, words_form(like, *READER), self.width, like.num_classes)


class _Mean(TextNet):
    def combined(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
        return words_MLE.sum(1) / real_ML.sum(1, keepdim=True).clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class TextCNN(Embedded):
    """Convolutions over windows of words, the maximum over all places, a linear head.

    Source: Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, variant CNN-rand.

    Differences: SGD instead of Adadelta, fewer and smaller filters, and no limit on the norm of the weights; the recipe is chosen for processors. A
    window begins at every word of a row, so the last ones reach beyond its end, where they read zeros.

    Args:
        windows: words of a window, one number for each size.
        filters: F, filters of each size.
    """

    VERSION: ClassVar[int] = 1
    windows: tuple[int, ...]
    filters: int

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        super().__post_init__()
        if not self.windows or min(*self.windows, self.filters) < 1:
            raise ConfigError(f"net.windows={list(self.windows)}, net.filters={self.filters}: give at least one size, and numbers of 1 or more")

    def build(self, like: Dataset) -> FeatureNet:
        """Return a fresh module.

        Raises:
            ConfigError: the rows are not words.
        """
        return _CNN(self, words_form(like, *READER), like.num_classes)


class _CNN(TextNet):
    def __init__(self, recipe: TextCNN, form: Tokens, num_classes: int) -> None:
        super().__init__(recipe, form, len(recipe.windows) * recipe.filters, num_classes)
        self.windows = recipe.windows
        self.filters = nn.ModuleList(nn.Linear(size * recipe.width, recipe.filters) for size in recipe.windows)

    def summary(self, ids_ML: Tensor) -> Tensor:
        """Convolve rows of the table, which is faster than embeddings: the scale multiplies the filters.

        On SST-2 a step takes two thirds of the time of one product for each size and slices of one padded tensor of embeddings.
        """
        real_ML, longest = ids_ML != PADDING, max(self.windows)
        windows_T = F.pad(ids_ML, (0, longest - 1)).unfold(1, longest, 1)[real_ML]
        return self._largest(self.table(windows_T).flatten(1), self.recipe.scale, real_ML)

    def combined(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
        longest = max(self.windows)
        windows_TEW = F.pad(words_MLE, (0, 0, 0, longest - 1)).unfold(1, longest, 1)[real_ML]
        return self._largest(windows_TEW.transpose(1, 2).flatten(1), 1.0, real_ML)

    def _largest(self, windows_T: Tensor, scale: float, real_ML: Tensor) -> Tensor:
        """Convolve only windows that begin at a word, all sizes in one product, with zeros where a window is shorter than the longest."""
        filters, longest = [cast("nn.Linear", each) for each in self.filters], max(self.windows)
        weight = torch.cat([F.pad(each.weight, (0, longest * self.recipe.width - each.in_features)) for each in filters])
        maps_TD = F.linear(windows_T, scale * weight, torch.cat([each.bias for each in filters]))
        maps_TD = maps_TD.to(torch.promote_types(maps_TD.dtype, torch.float32))
        return torch.segment_reduce(maps_TD, "max", lengths=real_ML.sum(1), initial=0.0)  # from 0 on: the rectifier


@dataclass(frozen=True, kw_only=True)
class TextTransformer(Embedded):
    """A small transformer encoder with learned positions; its features are the mean over the words of a row.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, with the normalisation before each part (Xiong et al., "On Layer
    Normalization in the Transformer Architecture", ICML 2020), which trains without a long warm-up.

    Args:
        layers: number of layers.
        heads: attention heads of a layer; they divide `width`.
    """

    VERSION: ClassVar[int] = 1
    layers: int
    heads: int

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        super().__post_init__()
        if min(self.layers, self.heads) < 1 or self.width % self.heads:
            raise ConfigError(f"net.layers={self.layers}, net.heads={self.heads}: give 1 or more; the heads have to divide net.width={self.width}")

    def build(self, like: Dataset) -> FeatureNet:
        """Return a fresh module.

        Raises:
            ConfigError: the rows are not words.
        """
        return _Transformer(self, words_form(like, *READER), like.inputs.shape[1], like.num_classes)


class _Transformer(TextNet):
    def __init__(self, recipe: TextTransformer, form: Tokens, places: int, num_classes: int) -> None:
        super().__init__(recipe, form, recipe.width, num_classes)
        self.positions = nn.Parameter(torch.randn(places, recipe.width) * recipe.spread / recipe.scale)
        self.layers = nn.ModuleList(_Layer(recipe.width, recipe.heads, recipe.dropout) for _ in range(recipe.layers))
        self.norm = nn.LayerNorm(recipe.width)

    def combined(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
        states = words_MLE + self.positions[: words_MLE.shape[1]] * self.recipe.scale
        for layer in self.layers:
            states = layer(states, real_ML)
        kept: Tensor = self.norm(states) * real_ML[:, :, None]
        return kept.sum(1) / real_ML.sum(1, keepdim=True).clamp_min(1)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.asked, self.answered = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden, self.out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, states_MLE: Tensor, real_ML: Tensor) -> Tensor:
        parts = self.asked(self.norms[0](states_MLE)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3, M, heads, L, E / heads
        seen = (real_ML | ~real_ML.any(1, keepdim=True))[:, None, None]  # a row without a word looks at its padding: no place would give 0 / 0
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen).transpose(1, 2).flatten(2)
        states_MLE = states_MLE + F.dropout(self.answered(mixed), self.dropout, self.training)
        hidden = F.gelu(self.hidden(self.norms[1](states_MLE)))
        added: Tensor = F.dropout(self.out(hidden), self.dropout, self.training)
        return states_MLE + added
