"""Networks for rows of words: the mean of embeddings, convolutions over words, a small transformer.

Shape letters: M rows, L places of a row, V words of the vocabulary, E numbers of an embedding, F filters, T words in all, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # the usual name

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.forms.tokens import PADDING, TEXTS, UNKNOWN, Tokens
from poisonbench.nets.net import FeatureNet


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the recipes of this module have in common: a table of embeddings, initialised at random and trained from scratch.

    With SGD, a word's embedding is changed only by the few steps whose rows contain the word. So it needs a larger learning rate than the other
    weights: embeddings are `scale` times the table, which makes their learning rate scale ** 2 times that of the recipe.

    Args:
        width: E, numbers of an embedding.
        min_count: how often a word has to occur in the training rows, so that the network knows it; all others are read as <unk>.
        dropout: share of the features that is set to zero in training, in [0, 1).
        scale: embeddings are this times the table, above 0.
        spread: standard deviation of the embeddings at the start, 0 or more; a small one lets rare words say little.
        norm: "none", or "group": the features of each row standardised over their own units, as ensembles and DP-SGD ask of every network.
    """

    READS: ClassVar[frozenset[str]] = TEXTS
    width: int
    min_count: int
    dropout: float
    scale: float
    spread: float
    norm: Literal["none", "group"] = field(default="none", metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        if min(self.width, self.min_count) < 1 or not (0 <= self.dropout < 1 and self.scale > 0 and self.spread >= 0):
            asked = f"net.width={self.width}, min_count={self.min_count}, dropout={self.dropout}, scale={self.scale}, spread={self.spread}"
            raise ConfigError(f"{asked}: give whole numbers of 1 or more, a dropout in [0, 1), a scale above 0 and a spread of 0 or more")


class TextNet(FeatureNet):
    """A network that starts with a table of embeddings. Base class of the networks in this module.

    The vocabulary of a task has the words of all its rows, test rows included. A network knows only words of its own training rows: `prepare` counts
    them, and all other words are read as <unk>.

    Args:
        recipe: the common part of its recipe.
        form: the vocabulary.
        features: D.
        num_classes: K.
    """

    known: Tensor
    alive: Tensor

    def __init__(self, recipe: Embedded, form: Tokens, features: int, num_classes: int) -> None:
        super().__init__()
        self.recipe, self.form = recipe, form
        self.table = nn.Embedding(len(form.vocabulary), recipe.width, padding_idx=PADDING)
        self.last = nn.Linear(features, num_classes)
        with torch.no_grad():
            self.table.weight.mul_(recipe.spread / recipe.scale)
        self.register_buffer("known", torch.ones(len(form.vocabulary), dtype=torch.bool))
        self.register_buffer("alive", torch.ones(features))
        self.standard = nn.GroupNorm(1, features) if recipe.norm == "group" else nn.Identity()

    @property
    def stackable(self) -> bool:
        """Return False: a table of embeddings has no stacked form."""
        return False

    def prepare(self, inputs: Tensor) -> None:
        """Count the words of all (N, L) training rows; those that occur `min_count` times or more are known from now on."""
        counts = torch.bincount(inputs.flatten(), minlength=len(self.known)).to(self.known.device)
        self.known.copy_(counts >= self.recipe.min_count)
        self.know([PADDING, UNKNOWN])

    def know(self, ids: Sequence[int]) -> None:
        """Add words to those that the network knows."""
        self.known[torch.tensor(ids, device=self.known.device)] = True

    def read(self, inputs: Tensor) -> Tensor:
        """Return (M, l) ids from (M, L): <unk> for words that are not known, and no columns at the end that are padding in all rows; l >= 1."""
        used = (inputs != PADDING).any(0).nonzero()[:, 0]
        ids = inputs[:, : int(used[-1]) + 1 if len(used) else 1]
        return torch.where(self.known[ids], ids, UNKNOWN)

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D) from (M, L) int64 token ids."""
        ids = self.read(inputs)
        features: Tensor = self.standard(self.summary(self.table(ids) * self.recipe.scale, ids != PADDING))
        return features * self.alive

    def summary(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
        """Return (M, D) from embeddings; `real_ML` (bool) is false where there is padding, whose embedding is zero."""
        raise NotImplementedError

    def silence(self, channels_D: Tensor) -> None:
        """Set these features to zero permanently."""
        self.alive[channels_D] = 0.0

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        scores: Tensor = self.last(F.dropout(features, self.recipe.dropout, self.training))
        return scores


def text_net(module: nn.Module) -> TextNet:
    """Return the network of words in a module.

    Raises:
        Incompatible: there is none.
    """
    found = next((part for part in module.modules() if isinstance(part, TextNet)), None)
    if found is None:
        raise Incompatible("this network has no table of word embeddings; use net=text_cnn, mean_embedding or text_transformer")
    return found


def words_form(like: Dataset) -> Tokens:
    """Return the vocabulary of rows of words.

    Raises:
        ConfigError: the rows are not words.
    """
    if not isinstance(like.form, Tokens):
        raise ConfigError("a network for text needs rows of words; choose a text task, such as task=sentiment, or another net")
    return like.form


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
        return _Mean(self, words_form(like), self.width, like.num_classes)


class _Mean(TextNet):
    def summary(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
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
        return _CNN(self, words_form(like), like.num_classes)


class _CNN(TextNet):
    def __init__(self, recipe: TextCNN, form: Tokens, num_classes: int) -> None:
        super().__init__(recipe, form, len(recipe.windows) * recipe.filters, num_classes)
        self.windows = recipe.windows
        self.filters = nn.ModuleList(nn.Linear(size * recipe.width, recipe.filters) for size in recipe.windows)

    def summary(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
        """Convolve only windows that begin at a word, which is half of the work on rows of mixed length."""
        length, width = words_MLE.shape[1:]
        beyond = F.pad(words_MLE, (0, 0, 0, max(self.windows) - 1))
        windows_T = torch.cat([beyond[:, shift : shift + length] for shift in range(max(self.windows))], 2)[real_ML]
        maps_TD = torch.cat([filters(windows_T[:, : size * width]) for size, filters in zip(self.windows, self.filters, strict=True)], 1)
        return torch.segment_reduce(F.relu(maps_TD).float(), "max", lengths=real_ML.sum(1), initial=0.0)


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
        return _Transformer(self, words_form(like), like.inputs.shape[1], like.num_classes)


class _Transformer(TextNet):
    def __init__(self, recipe: TextTransformer, form: Tokens, places: int, num_classes: int) -> None:
        super().__init__(recipe, form, recipe.width, num_classes)
        self.positions = nn.Parameter(torch.randn(places, recipe.width) * recipe.spread / recipe.scale)
        self.layers = nn.ModuleList(_Layer(recipe.width, recipe.heads, recipe.dropout) for _ in range(recipe.layers))
        self.norm = nn.LayerNorm(recipe.width)

    def summary(self, words_MLE: Tensor, real_ML: Tensor) -> Tensor:
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
