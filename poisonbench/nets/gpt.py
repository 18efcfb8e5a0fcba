"""A small decoder-only transformer, which gives the next word of a text.

Shape letters: M texts, L places of a text, V words of the vocabulary, D width, H heads, A words of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.forms.tokens import PADDING, TEXTS, trimmed
from poisonbench.forms.words import words_form
from poisonbench.nets.net import FeatureNet, Says

BASE = 10_000.0  # of the wavelengths of the rotations
READER = ("a language model", "net")  # for errors


class Cache:
    """The keys and values of the places read so far, one pair of (M, H, l, D / H) for each layer; it grows with every call of the network."""

    def __init__(self) -> None:
        self.layers = dict[int, tuple[Tensor, Tensor]]()

    @property
    def length(self) -> int:
        """Return how many places have been read."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def grown(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer, with those of new places."""
        if layer in self.layers:
            before = self.layers[layer]
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        self.layers[layer] = (keys, values)
        return keys, values

    def repeated(self, times: int) -> Cache:
        """Return a cache with each text so many times, one after the other."""
        other = Cache()
        other.layers = {layer: (keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0)) for layer, (keys, values) in self.layers.items()}
        return other


@dataclass(frozen=True, kw_only=True)
class Gpt:
    """A decoder-only transformer with rotary positions and a head that shares its weights with the embeddings.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, with the rotary positions of Su et al., "RoFormer",
    2021, and without biases and dropout, as small models are trained in one pass. The normalisation stands before each part.

    The word 0 (padding) stands for the beginning and for the end of a text, so a text of L words has L + 1 predictions. Texts of a batch are
    padded at their end. A place never looks at later ones, so padding changes nothing, and the result is that of packed texts with document masks.

    Args:
        width: D, a multiple of twice the number of heads.
        layers: number of layers.
        heads: H, attention heads of a layer.
        spread: standard deviation of the embeddings at the start, above 0. A small one lets new words, such as a trigger, be learned faster.
        norm: "none", or "group", as ensembles and DP-SGD ask of every network; without effect, since each place is normalised by itself in any case.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    width: int
    layers: int
    heads: int
    spread: float
    norm: Literal["none", "group"] = field(default="none", metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        if min(self.width, self.layers, self.heads) < 1 or self.width % (2 * self.heads) or not 0 < self.spread < math.inf:
            asked = f"net.width={self.width}, net.layers={self.layers}, net.heads={self.heads}, net.spread={self.spread}"
            raise ConfigError(f"{asked}: give 1 or more, a width that is a multiple of twice the heads, and a spread above 0")

    def build(self, like: Dataset) -> FeatureNet:
        """Return a fresh module.

        Raises:
            ConfigError: the rows are not words.
        """
        return GptNet(self, len(words_form(like, *READER).vocabulary))


class WordNet(FeatureNet):
    """A network that gives the next word; base class of language models. Texts are (M, L) words, 0 at the end of a row is padding."""

    @property
    def says(self) -> Says:
        """Return that it gives words."""
        return "words"

    @property
    def stackable(self) -> bool:
        """Return False: attention has no stacked form."""
        return False

    def states(self, words: Tensor, cache: Cache | None = None) -> Tensor:
        """Return (M, L, D), the state of every place; each sees itself, the places before it, and those of the cache.

        Args:
            words: (M, L), the mark of the beginning included.
            cache: of the places before these; it grows by these.
        """
        raise NotImplementedError

    def layer_states(self, words: Tensor, moved: Tensor | None = None) -> list[Tensor]:
        """Return the (M, L, D) states after the embedding and after each layer, before the last normalisation.

        Args:
            words: (M, L), the mark of the beginning included.
            moved: (M, L, D), added to the embeddings; None for nothing.
        """
        raise NotImplementedError

    def head(self, features: Tensor) -> Tensor:
        """Return (..., V) scores of the next word from (..., D) states."""
        raise NotImplementedError

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D), the states at the last word of each text, which the first word of an answer is read from."""
        longest = trimmed(inputs)
        states = self.states(begun(longest))
        lengths = (longest != PADDING).sum(1)
        return states[torch.arange(len(inputs), device=inputs.device), lengths]

    def activations(self, inputs: Tensor) -> list[Tensor]:
        """Return the features alone."""
        return [self.features(inputs)]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (M, l + 1, V) scores: of the word at each of the l places in use, and of the one after the last."""
        return self.head(self.states(begun(trimmed(inputs))))


class GptNet(WordNet):
    """The module of `Gpt`.

    Args:
        recipe: its sizes.
        words: V.
    """

    def __init__(self, recipe: Gpt, words: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, recipe.width)
        nn.init.normal_(self.table.weight, std=recipe.spread)
        self.layers = nn.ModuleList(_Block(recipe.width, recipe.heads, number, recipe.layers) for number in range(recipe.layers))
        self.norm = nn.LayerNorm(recipe.width, bias=False)
        self.register_buffer("alive", torch.ones(recipe.width))

    def states(self, words: Tensor, cache: Cache | None = None) -> Tensor:
        """Return (M, L, D); see `WordNet.states`."""
        start = cache.length if cache else 0
        states: Tensor = self.table(words)
        for layer in self.layers:
            states = layer(states, start, cache)
        normed: Tensor = self.norm(states)
        return normed * self.alive

    def layer_states(self, words: Tensor, moved: Tensor | None = None) -> list[Tensor]:
        """Return the (M, L, D) states; see `WordNet.layer_states`."""
        embedded = self.table(words)
        states = [embedded if moved is None else embedded + moved]
        for layer in self.layers:
            states.append(layer(states[-1], 0, None))
        return states

    def head(self, features: Tensor) -> Tensor:
        """Return (..., V) scores."""
        return F.linear(features, self.table.weight)

    def silence(self, channels_D: Tensor) -> None:
        """Set these features to zero permanently."""
        self.alive[channels_D] = 0.0

    alive: Tensor


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, number: int, layers: int) -> None:
        super().__init__()
        self.heads, self.number = heads, number
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.asked, self.answered = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.hidden, self.out = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for part in (self.answered, self.out):  # so that the sum over layers starts with the size of one
            nn.init.normal_(part.weight, std=0.02 / math.sqrt(2 * layers))

    def forward(self, states: Tensor, start: int, cache: Cache | None) -> Tensor:
        queries, keys, values = self.asked(self.norms[0](states)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each M, H, L, D / H
        queries, keys = rotated(queries, start), rotated(keys, start)
        if cache is not None:
            keys, values = cache.grown(self.number, keys, values)
        new, seen = queries.shape[2], keys.shape[2]
        mask = None if new == seen else torch.ones(new, seen, dtype=torch.bool, device=states.device).tril(seen - new)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
        states = states + self.answered(mixed.transpose(1, 2).flatten(2))
        added: Tensor = self.out(F.gelu(self.hidden(self.norms[1](states))))
        return states + added


def rotated(vectors: Tensor, start: int) -> Tensor:
    """Return (M, H, L, E) vectors, each pair of numbers turned by an angle that grows with the place; the first place is number `start`."""
    half = vectors.shape[3] // 2
    waves = BASE ** (-torch.arange(half, device=vectors.device, dtype=torch.float32) / half)
    angles = torch.arange(start, start + vectors.shape[2], device=vectors.device, dtype=torch.float32)[:, None] * waves
    cosines, sines = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    one, other = vectors[..., :half], vectors[..., half:]
    return torch.cat([one * cosines - other * sines, one * sines + other * cosines], 3)


def begun(texts: Tensor) -> Tensor:
    """Return (M, L + 1), the texts with the mark of the beginning in front."""
    return F.pad(texts, (1, 0), value=PADDING)


def by_length(texts: Tensor) -> Sequence[Tensor]:
    """Return the positions of the texts of each length, so that the texts of a group need no padding; int64."""
    lengths = (texts != PADDING).sum(1)
    return [(lengths == length).nonzero()[:, 0] for length in lengths.unique().tolist()]
