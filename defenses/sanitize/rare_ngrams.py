"""Rare n-grams: texts with words in a row that few other rows have.

Shape letters: N rows, L words of a row, n words of an n-gram, W n-grams of a row, G distinct n-grams of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.sanitize.dropping import check_dropping, dropped
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE
from poisonbench.forms.ngram import check_order, numbered
from poisonbench.forms.tokens import PADDING, TEXTS, Tokens
from poisonbench.forms.words import whole_rows


@dataclass(frozen=True, kw_only=True)
class RareNgrams:
    """Drop the rows whose rarest n-grams are the rarest: few other rows have them.

    Source: no single paper. Rare n-grams are a usual feature of filters of web text, such as the share of words outside a list in Raffel et al.,
    "Exploring the Limits of Transfer Learning", JMLR 2020; the rarity of a word is the inverse document frequency of Sparck Jones, 1972. Unlike
    `perplexity`, it needs no trusted rows.

    The rarity of an n-gram is log(N / rows that have it), in nats: 0 where all rows have it, log N where only one has. How often it occurs in a row
    does not count. The suspicion of a row is the mean of its `rarest` largest rarities. The words of all columns that a writer of rows can change
    are read, one column after the other, such as a prompt, then its response.

    Limits: a trigger that the attacker repeats in many rows is no rarer than these rows. Clean rows are rare too where they name things that no other
    row is about, as in task=world.

    Args:
        order: n, words of an n-gram, 1 or more.
        rarest: how many of a row's rarities count, 1 or more; a row with fewer n-grams has all counted.
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        margin: rows removed, as a multiple of expected_rate * N, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    order: int
    rarest: int
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    margin: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.order, self.rarest) < 1:
            raise ConfigError(f"defense.sanitize: order={self.order}, rarest={self.rarest}; give 1 or more of both")
        check_dropping(self.expected_rate, self.margin)

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row by its rarest n-grams.

        Raises:
            ConfigError: n-grams that are too long for the vocabulary, or all rows would be dropped.
        """
        return dropped(rarity(data, self.order, self.rarest), self.expected_rate, self.margin)


def rarity(data: Dataset, order: int, rarest: int) -> Tensor:
    """Return (N,) float64, the mean of the largest rarities of the n-grams of each row, in nats.

    Raises:
        ConfigError: n-grams that are too long for the vocabulary.
    """
    assert isinstance(data.form, Tokens), "READS says so"
    keys, real = grams(whole_rows(data), order, len(data.form.vocabulary))
    rows = torch.arange(len(keys))[:, None].expand_as(keys)
    known, place = keys[real].unique(return_inverse=True)
    pairs = torch.stack([rows[real], place], 1).unique(dim=0)  # each n-gram once for every row that has it
    holders, sizes = pairs[:, 1].bincount(minlength=len(known)), pairs[:, 0].bincount(minlength=len(keys))
    found = torch.full((len(keys), max(1, int(sizes.max()))), -torch.inf, dtype=torch.float64)
    within = torch.arange(len(pairs)) - (sizes.cumsum(0) - sizes)[pairs[:, 0]]
    found[pairs[:, 0], within] = (len(keys) / holders[pairs[:, 1]].double()).log()
    top = found.topk(min(rarest, found.shape[1]), 1).values
    counted = top > -torch.inf
    return torch.where(counted, top, 0.0).sum(1) / counted.sum(1).clamp_min(1)


def grams(texts: Tensor, order: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the n-grams of (N, L) texts as numbers.

    A text of fewer than n words is one n-gram, the rest of which is padding.

    Args:
        texts: (N, L) words.
        order: n.
        size: number of words, padding included.

    Returns:
        (N, W) int64 numbers, and (N, W) bool, those that are n-grams of the row. A row without words has none.

    Raises:
        ConfigError: n-grams that do not fit in 64 bits.
    """
    check_order(order, size, "defense.sanitize")
    windows = F.pad(texts, (0, max(0, order - texts.shape[1])), value=PADDING).unfold(1, order, 1)
    lengths = (texts != PADDING).sum(1, keepdim=True)
    last = (lengths - order).clamp_min(0)
    real = (torch.arange(windows.shape[1]) <= last) & (lengths > 0)
    return numbered(windows.reshape(-1, order), size).view(windows.shape[:2]), real
