"""A reader that is a language model of your own, in a folder on this machine.

Shape letters: M questions, L places of a text, R groups of P passages, K candidate answers, A places of an answer, T tokens of the model.
"""

from __future__ import annotations

import functools
import importlib
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.files import file_digest
from poisonbench.core.form import Form
from poisonbench.core.learner import Fitted
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import NONE_OF_THEM
from poisonbench.forms.tokens import PADDING, TEXTS, Tokens, words_of
from poisonbench.forms.words import words_form
from poisonbench.retrieval.folders import model_folder

CONFIG = "config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
WEIGHTS = ".safetensors"
READ = (".json", ".jinja", ".model", ".txt", WEIGHTS)  # of the files of a folder, those that a model can depend on
SLOTS = {"passages", "question"}


@dataclass(frozen=True, kw_only=True)
class Local:
    """Answer with the candidate that a causal language model finds most likely after a prompt with the passages and the question.

    The score of a candidate is the mean log-likelihood of its tokens: the sum of log p(token | everything before it), divided by the number of
    tokens, so that long answers are not at a disadvantage. "None of them" is scored as a text. Prompt and candidate are joined by a space and split
    into tokens together. Those that exceed the tokens of the prompt alone are the candidate's, as in the lm-evaluation-harness of EleutherAI. The
    prompt starts with the tokenizer's token for the beginning of a text, if it has one.

    The model is used as it is: it learns nothing here, and it also answers from what it knows, even without a passage. It runs on the CPU in
    float32. Weights are read from safetensors alone, code in the folder is not run, and nothing is downloaded. Needs the package
    transformers.

    Args:
        root: the folder with config.json, a tokenizer and *.safetensors; variables such as $DATA are expanded.
        prompt: the text before the answer, with {passages} (one a line, best first) and {question}; spaces at its end are removed.
        none: the text whose likelihood is the score of "none of them".
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"
    PACKAGES: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers")
    READS: ClassVar[frozenset[str]] = TEXTS
    root: str | None
    prompt: str
    none: str

    def __post_init__(self) -> None:
        """Refuse a prompt without the passages or the question, and a text for "none of them" without words."""
        try:
            slots = {name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None}
        except ValueError:
            slots = set()
        if slots != SLOTS:
            raise ConfigError(f"reader.prompt={self.prompt!r}: write {{passages}} and {{question}} where they belong, and no other braces")
        if not words_of(self.none):
            raise ConfigError("reader.none has no word; give the text that stands for none of the answers, such as 'i do not know'")

    @cached_property
    def content(self) -> Mapping[str, object]:
        """What decides the answers: the files, not where they are."""
        return {"prompt": self.prompt, "none": self.none, "files": {path.name: file_digest(path) for path in _files(_folder(self.root))}}

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this reader: it learns nothing."""
        return self

    def check(self, passages: Dataset) -> None:
        """Refuse rows that are not words, a folder without a model in safetensors, and a missing package.

        Raises:
            ConfigError: what to change.
        """
        words_form(passages, "a language model", "reader")
        _folder(self.root)
        if find_spec("transformers") is None:
            raise ConfigError('reader=local needs the package transformers: pip install "poisonbench[local]"')

    def read(self, questions: Tensor, passages: Tensor, answers: Tensor, form: Form) -> Tensor:
        """Return (M, R, K) float32 mean log-likelihoods.

        Raises:
            ConfigError: a prompt that is longer than the model can read.
        """
        assert isinstance(form, Tokens), "checked before"
        model = _loaded(self, str(self.content))
        scores = torch.empty(*passages.shape[:2], answers.shape[1])
        for row, (question, groups, given) in enumerate(zip(questions, passages, answers, strict=True)):
            texts = [form.decode(answer) if place != NONE_OF_THEM else self.none for place, answer in enumerate(given)]
            for place, group in enumerate(groups):
                told = "\n".join(form.decode(passage) for passage in group if passage[0] != PADDING)
                scores[row, place] = model.likelihoods(self.prompt.format(passages=told, question=form.decode(question)), texts)
        return scores


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    bos_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]:
        """Return the tokens of a text as "input_ids"."""
        ...


class Loaded(NamedTuple):
    """A model and its tokenizer.

    Args:
        net: the model.
        tokenizer: splits texts.
        where: its folder, for errors.
    """

    net: nn.Module
    tokenizer: Tokenizer
    where: str

    @torch.no_grad()
    def likelihoods(self, prompt: str, answers: Sequence[str]) -> Tensor:
        """Return (K,) mean log-likelihoods of the tokens of each answer after the prompt.

        Raises:
            ConfigError: prompt and answer are longer than the model can read, or an answer has no token of its own.
        """
        prompt = prompt.rstrip()
        before = self._tokens(prompt)
        said = [self._tokens(f"{prompt} {answer}")[len(before) :] for answer in answers]
        if not before or not all(said):
            raise ConfigError(f"the tokenizer in {self.where} finds no token in a prompt or in an answer; give the tokenizer of this model")
        longest, limit = max(map(len, said)), getattr(self.net.config, "max_position_embeddings", None)
        if limit is not None and len(before) + longest > limit:
            raise ConfigError(f"a prompt with its answer has {len(before) + longest} tokens, and the model in {self.where} reads {limit}; lower learner.top")
        padded_KT = torch.tensor([before + tokens + [before[0]] * (longest - len(tokens)) for tokens in said])
        real_KA = torch.arange(longest) < torch.tensor([len(tokens) for tokens in said])[:, None]
        mask_KT = torch.cat([torch.ones(len(said), len(before), dtype=torch.int64), real_KA.long()], 1)
        logits = self.net(input_ids=padded_KT, attention_mask=mask_KT, use_cache=False, logits_to_keep=longest + 1).logits[:, -longest - 1 : -1]
        each_KA = logits.float().log_softmax(2).gather(2, padded_KT[:, -longest:, None])[:, :, 0]
        means: Tensor = (each_KA * real_KA).sum(1) / real_KA.sum(1)
        return means

    def _tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, after that for the beginning of a text if there is one."""
        start = self.tokenizer.bos_token_id
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens if start is None else [start, *tokens]


@functools.lru_cache(maxsize=1)
def _loaded(reader: Local, identity: str) -> Loaded:  # the files may change between two readers, and their identity with them
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
    try:
        transformers = importlib.import_module("transformers")  # optional, so no type checker needs it
    except ImportError as error:
        raise ConfigError(f'reader=local cannot import transformers ({error}); install it again: pip install "poisonbench[local]"') from error
    folder = _folder(reader.root)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        net = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # transformers raises many kinds
        raise ConfigError(f"{folder} cannot be read as a causal language model ({error}); save model and tokenizer with save_pretrained") from error
    return Loaded(net.eval(), tokenizer, str(folder))


def _folder(root: str | None) -> Path:
    """Return the folder of a model.

    Raises:
        ConfigError: none is named, it lacks a file, or its weights are pickled.
    """
    folder = model_folder(root, "reader.root", f"{CONFIG}, a tokenizer and *{WEIGHTS}", "reader=support or copying")
    if not (folder / CONFIG).is_file() or not any((folder / name).is_file() for name in TOKENIZERS):
        raise ConfigError(f"reader.root={root} has no {CONFIG} or no tokenizer, such as {TOKENIZERS[0]}; save model and tokenizer with save_pretrained")
    return folder


def _files(folder: Path) -> list[Path]:
    """Return the files that a model can depend on."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in READ)
