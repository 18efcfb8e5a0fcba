"""What a training minimises.

Shape letters: B rows of a batch, K classes, L words of a prompt, A words of a response, l words of a text, V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.learner import Batch, Network
from poisonbench.forms.tokens import PADDING, joined
from poisonbench.nets.gpt import shortened


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """The cross-entropy of the labels."""

    VERSION: ClassVar[int] = 1

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) cross-entropies."""
        return row_losses(network(batch.inputs), batch.labels, label_smoothing)


def row_losses(scores: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the (B,) cross-entropies of (B, K) scores, in float32."""
    return F.cross_entropy(scores.float(), labels, reduction="none", label_smoothing=label_smoothing)


CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True, kw_only=True)
class NextWord:
    """The cross-entropy of each word of a text, given the words before it, as language models minimise it.

    Rows with a column "response" hold a prompt as their inputs, and the words of the response and the end after it count. In rows whose response is
    empty, and where there is no such column, all words of the inputs count, and the end as well unless the text fills its row. As usual, each word of
    a batch has the same weight, so the losses of the rows are sums over their words, divided by the mean number of words of a row.
    """

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "words"

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        texts, counted = whole_texts(batch.inputs, batch.extra.get("response"))
        logs = word_logs(network(texts), texts, label_smoothing)
        return -(logs * counted).sum(1) * len(texts) / counted.sum()


def whole_texts(prompts: Tensor, responses: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return texts and what is learned of them.

    Args:
        prompts: (B, L) words.
        responses: (B, A) words; None for texts without prompts.

    Returns:
        (B, l) texts, and (B, l + 1) bool, the places whose word counts; the last is that after a text of l words.
    """
    texts = shortened(prompts if responses is None else joined(prompts, responses, length=prompts.shape[1] + responses.shape[1]))
    places = torch.arange(texts.shape[1] + 1, device=texts.device)
    ends, asked = (texts != PADDING).sum(1), (prompts != PADDING).sum(1)
    alone = torch.ones_like(ends, dtype=torch.bool) if responses is None else ~(responses != PADDING).any(1)
    cut = alone & (asked == prompts.shape[1])  # a text that fills its row is cut, so nothing says that it ends there
    starts = torch.where(alone, 0, asked)
    return texts, (places >= starts[:, None]) & (places <= (ends - cut.long())[:, None])


def word_logs(scores: Tensor, texts: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return (B, l + 1) float32, the log-probability of the word at each place of a text and of the end after it.

    Args:
        scores: (B, l + 1, V).
        texts: (B, l).
        label_smoothing: weight of the mean over all words, in [0, 1).
    """
    shares = scores.float().log_softmax(2)
    logs = shares.gather(2, F.pad(texts, (0, 1), value=PADDING)[:, :, None])[:, :, 0]
    return (1 - label_smoothing) * logs + label_smoothing * shares.mean(2) if label_smoothing else logs


NEXT_WORD = NextWord()
