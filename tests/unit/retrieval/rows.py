"""Rows of words, and a small encoder in a folder."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens, vocabulary_of, words_of

SUBWORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcde", "##a", "##b", "##c", "##d", "?"]
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(SUBWORDS),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "layer_norm_eps": 1e-12,
}


def passages(*texts: str, length: int = 10, words: str = "") -> Dataset:
    form = Tokens(vocabulary=vocabulary_of([words_of(text) for text in (*texts, words)]))
    return asked(form, *texts, length=length)


def asked(form: Tokens, *texts: str, length: int = 10) -> Dataset:
    inputs = torch.stack([form.encode(text, length) for text in texts])
    return Dataset.of(inputs, torch.zeros(len(texts), dtype=torch.int64), num_classes=1, form=form)


def generated(rows: int, words: int = 30, length: int = 8, seed: int = 100) -> Dataset:
    """Return rows of random words, frequent ones and rare ones, of different lengths."""
    draws = Key.root(seed).torch()
    form = Tokens(vocabulary=("", "<unk>", *(f"w{place:02}" for place in range(words))))
    inputs = (torch.rand(rows, length, generator=draws) ** 3 * words).long() + 2
    lengths = torch.randint(1, length + 1, (rows, 1), generator=draws)
    return Dataset.of(torch.where(torch.arange(length) < lengths, inputs, 0), torch.zeros(rows, dtype=torch.int64), num_classes=1, form=form)


def weights(config: dict = CONFIG) -> dict[str, torch.Tensor]:
    draws, width = Key.root(100).torch(), config["hidden_size"]
    sizes = {"word_embeddings": config["vocab_size"], "position_embeddings": config["max_position_embeddings"], "token_type_embeddings": 2}
    found = {f"embeddings.{name}.weight": torch.randn(rows, width, generator=draws) for name, rows in sizes.items()}
    linear = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")} | {"attention.output.dense": (width, width)}
    linear |= {"intermediate.dense": (config["intermediate_size"], width), "output.dense": (width, config["intermediate_size"])}
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        home = f"encoder.layer.{layer}"
        for name, size in linear.items():
            found |= {f"{home}.{name}.weight": torch.randn(*size, generator=draws), f"{home}.{name}.bias": torch.randn(size[0], generator=draws)}
        norms += [f"{home}.attention.output.LayerNorm", f"{home}.output.LayerNorm"]
    return found | {f"{norm}.{part}": torch.rand(width, generator=draws) + 0.5 for norm in norms for part in ("weight", "bias")}


def folder(place: Path, config: dict = CONFIG, *, prefix: str = "", tensors: dict | None = None) -> Path:
    """Write an encoder with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(SUBWORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=9)
    place.mkdir(exist_ok=True)
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "config.json").write_text(json.dumps(config))
    save_file({prefix + name: value for name, value in (tensors or weights()).items()}, place / "model.safetensors")
    return place
