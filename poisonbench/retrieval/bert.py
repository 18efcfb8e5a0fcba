"""BERT in a few lines of torch, as an encoder of texts.

Shape letters: M rows, T subwords of a text, L places of a row, V words of the vocabulary, S subwords of a word at most, E numbers of an embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # the usual name

from poisonbench.retrieval.words import WordEncoder

Pooling: TypeAlias = Literal["mean", "first"]
KEPT = 1 << 16  # embeddings that a process keeps: 100 MB of 384 numbers each; several victims have most passages in common
NONE = -1  # no subword


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a BERT.

    Args:
        width: E.
        layers: number of layers.
        heads: attention heads of a layer; they divide `width`.
        epsilon: of the layer normalisations.
        limit: subwords of a text at most, the two marks around it among them; the rest is cut off.
        marks: ids of the subwords before and after every text.
        pooling: what stands for a text: "mean" of all subwords, or the "first" mark.
    """

    width: int
    layers: int
    heads: int
    epsilon: float
    limit: int
    marks: tuple[int, int]
    pooling: Pooling


class Bert(nn.Module):
    """A BERT without dropout and without a head; its parameters have the names of the published files.

    Source: Devlin, Chang, Lee, Toutanova, "BERT", NAACL 2019: embeddings of subwords, of positions and of the first segment, then layers of
    attention and of two linear maps with GELU, each followed by a layer normalisation. Sentence encoders take the mean of the last layer over all
    subwords (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019), scaled to length 1.

    Args:
        weights: of the file, without the prefix "bert.".
        shape: the sizes.
    """

    def __init__(self, weights: Mapping[str, Tensor], shape: Shape) -> None:
        super().__init__()
        self.shape, self.names = shape, {name: name.replace(".", "_") for name in weights}
        for name, value in weights.items():
            self.register_buffer(self.names[name], value.float())
        self.kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    @property
    def embeddings(self) -> Tensor:
        """Return the table of embeddings of subwords."""
        return self._weight("embeddings.word_embeddings.weight")

    def _weight(self, name: str) -> Tensor:
        return cast("Tensor", getattr(self, self.names[name]))

    def encoded(self, pieces: Sequence[int]) -> Tensor:
        """Return (E,) float32, the unit vector of one text of subwords; zeros for none.

        A text is encoded by itself, without padding: the bits of a matrix product depend on the number of its rows.
        """
        asked = tuple(pieces)
        if asked in self.kept:
            self.kept.move_to_end(asked)
            return self.kept[asked]
        with torch.no_grad():
            vectors = self.embeddings[list(asked)][None] if asked else self.embeddings.new_zeros(1, 0, self.shape.width)
            found: Tensor = self(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))[0]
        self.kept[asked] = found
        if len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return found

    def forward(self, vectors_MTE: Tensor, real_MT: Tensor) -> Tensor:
        """Return (M, E) unit vectors of embedded subwords, of which those that are real come first in each row; zeros for a row without any."""
        room = self.shape.limit - 2
        vectors_MTE, real_MT = vectors_MTE[:, :room], real_MT[:, :room]
        lengths_M = real_MT.sum(1)
        before, after = self.embeddings[list(self.shape.marks)]
        states = torch.cat([before.expand(len(lengths_M), 1, -1), vectors_MTE, vectors_MTE.new_zeros(len(lengths_M), 1, self.shape.width)], 1)
        places = torch.arange(states.shape[1])
        states = torch.where((places == lengths_M[:, None] + 1)[:, :, None], after, states)
        seen = places <= lengths_M[:, None] + 1
        states = states + self._weight("embeddings.position_embeddings.weight")[places] + self._weight("embeddings.token_type_embeddings.weight")[0]
        states = self._normalised(states, "embeddings.LayerNorm")
        for layer in range(self.shape.layers):
            states = self._layer(states, seen, f"encoder.layer.{layer}")
        pooled = states[:, 0] if self.shape.pooling == "first" else (states * seen[:, :, None]).sum(1)
        return F.normalize(pooled, dim=1) * (lengths_M > 0)[:, None]

    def _layer(self, states: Tensor, seen_MT: Tensor, name: str) -> Tensor:
        query, key, value = (
            self._linear(states, f"{name}.attention.self.{part}").unflatten(2, (self.shape.heads, -1)).transpose(1, 2) for part in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_MT[:, None, None]).transpose(1, 2).flatten(2)
        states = self._normalised(states + self._linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        hidden = F.gelu(self._linear(states, f"{name}.intermediate.dense"))
        return self._normalised(states + self._linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, states: Tensor, name: str) -> Tensor:
        return F.linear(states, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"))

    def _normalised(self, states: Tensor, name: str) -> Tensor:
        return F.layer_norm(states, (self.shape.width,), self._weight(f"{name}.weight"), self._weight(f"{name}.bias"), self.shape.epsilon)


def wanted(shape: Shape, subwords: int, positions: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the sizes of every weight that a BERT reads; -1 is any size."""
    width = shape.width
    yield "embeddings.word_embeddings.weight", (subwords, width)
    yield "embeddings.position_embeddings.weight", (positions, width)
    yield "embeddings.token_type_embeddings.weight", (-1, width)
    linear = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (width, width), "intermediate.dense": (inner, width), "output.dense": (width, inner)}
    norms = ("attention.output.LayerNorm", "output.LayerNorm")
    yield from ((f"embeddings.LayerNorm.{part}", (width,)) for part in ("weight", "bias"))
    for layer in range(shape.layers):
        for name, sizes in [*linear.items(), *((norm, (width,)) for norm in norms)]:
            yield f"encoder.layer.{layer}.{name}.weight", sizes
            yield f"encoder.layer.{layer}.{name}.bias", sizes[:1]


class BertWords(WordEncoder):
    """A BERT that reads rows of words.

    A word can be several subwords. Its lifted form has room for S of them: S embeddings of E numbers, then S flags, 1 where there is a subword.
    A word that is exactly one subword can be put in the place of another such word; those words are `known`.

    Args:
        net: the BERT, shared by all vocabularies.
        pieces: (V, S) int64 subwords of each word, -1 for none.
        unknown: the subword that stands for what the tokenizer does not know.
    """

    pieces: Tensor

    def __init__(self, net: Bert, pieces: Tensor, unknown: int) -> None:
        super().__init__()
        self.net, self.unknown = net, unknown
        self.register_buffer("pieces", pieces)

    @property
    def known(self) -> Tensor:
        """Return the words that are one subword, and not the unknown one."""
        return ((self.pieces != NONE).sum(1) == 1) & (self.pieces[:, 0] != self.unknown)

    def lift(self, inputs: Tensor) -> Tensor:
        """Return (M, L, S * E + S)."""
        pieces = self.pieces[inputs]
        real = pieces != NONE
        vectors = self.net.embeddings[pieces.clamp_min(0)] * real[..., None]
        return torch.cat([vectors.flatten(2), real.to(vectors.dtype)], 2)

    def pooled(self, lifted: Tensor) -> Tensor:
        """Return unit vectors of lifted words; the subwords are moved together, so that no gap is between them."""
        most = self.pieces.shape[1]
        vectors, real = lifted[..., :-most].unflatten(2, (most, -1)).flatten(1, 2), lifted[..., -most:].flatten(1) > 0.5
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(1, int(real.sum(1).max()) if len(real) else 1)]
        found: Tensor = self.net(vectors.gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2])), real.gather(1, order))
        return found

    def encoded(self, inputs: Tensor) -> Tensor:
        """Return unit vectors, each row encoded alone."""
        rows = self.pieces[inputs].flatten(1)
        found = [self.net.encoded(row[row != NONE].tolist()) for row in rows]
        return torch.stack(found) if found else torch.zeros(0, self.net.shape.width)
