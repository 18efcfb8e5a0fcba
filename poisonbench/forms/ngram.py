"""Word n-gram language models: interpolated Kneser-Ney, as tensors of counts.

Token 0 is the boundary of a text: it stands before the first word, after the last one, and nowhere else.

Shape letters: N rows, L tokens, n order of the model, G distinct n-grams, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError

BOUNDARY = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Ngrams:
    """Interpolated Kneser-Ney with one discount per order.

    Source: Kneser and Ney, "Improved Backing-off for M-gram Language Modeling", ICASSP 1995; the interpolated form of Chen and Goodman, "An Empirical
    Study of Smoothing Techniques for Language Modeling", Computer Speech and Language 1999: the discount is n1 / (n1 + 2 n2), from the numbers of
    n-grams that are counted once and twice. Below the unigrams lies the uniform distribution over all `size` tokens, so every word has a
    probability above 0, and the probabilities after each context sum to 1.

    Args:
        grams: (G, n) int64, the distinct n-grams of the text, boundaries included.
        counts: (G,) int64, how often each occurs.
        size: number of tokens, the boundary included.
    """

    grams: Tensor
    counts: Tensor
    size: int

    @classmethod
    def of(cls, rows_NL: Tensor, order: int, size: int) -> Ngrams:
        """Count the n-grams of rows of tokens that end in padding.

        Raises:
            ConfigError: the vocabulary is too large for numbers of 64 bits.
        """
        check_order(order, size)
        windows, real = framed(rows_NL, order)
        grams, counts = windows[real].unique(dim=0, return_counts=True)
        return cls(grams=grams, counts=counts, size=size)

    @property
    def order(self) -> int:
        """Return n."""
        return self.grams.shape[1]

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The tables of each order, unigrams first; below the highest, an n-gram counts how many words precede it."""
        found, grams, counts = [Level.of(self.grams, self.counts, self.size)], self.grams, self.counts
        for _ in range(1, self.order):
            grams, counts = grams[:, 1:].unique(dim=0, return_counts=True)
            found.append(Level.of(grams, counts, self.size))
        return tuple(reversed(found))

    def logs(self, windows: Tensor) -> Tensor:
        """Return (...,) float64 natural logarithms of the probability of the last token of (..., n) windows, given the others."""
        flat = windows.reshape(-1, self.order)
        chance = torch.full((len(flat),), 1 / self.size, dtype=torch.float64)
        for words, level in enumerate(self.levels, start=1):
            chance = level.interpolated(flat[:, -words:], chance, self.size)
        return chance.log().view(windows.shape[:-1])

    def perplexity(self, rows_NL: Tensor) -> Tensor:
        """Return (N,) float64, exp of the mean negative logarithm over words and the closing boundary."""
        total, terms = self._sums(rows_NL)
        return (-total / terms).exp()[:, 0]

    def gains(self, rows_NL: Tensor) -> Tensor:
        """Return (N, L) float64, how much lower the perplexity of a row is without the word at each place; -inf at padding."""
        total, terms = self._sums(rows_NL)
        without = -(total + self.rises(rows_NL)) / (terms - 1)
        return torch.where(rows_NL != BOUNDARY, (-total / terms).exp() - without.exp(), -torch.inf)

    def rises(self, rows_NL: Tensor) -> Tensor:
        """Return (N, L) float64, the logarithm of how much likelier a row is without the word at each place; -inf at padding.

        Only the next n - 1 words see another context when a word goes, so a row costs n L questions instead of L^2.
        """
        n, length, (windows, real) = self.order, rows_NL.shape[1], framed(rows_NL, self.order)
        behind = torch.nn.functional.pad(torch.where(real, self.logs(windows), 0.0), (0, n))
        text, inside = torch.nn.functional.pad(rows_NL, (n - 1, n)), torch.nn.functional.pad(real, (0, n))
        places, change = torch.arange(length), -behind.unfold(1, n, 1)[:, :length].sum(2)
        for ahead in range(1, n):
            # the words before and up to the one that is `ahead` places on, without the word itself
            reach = torch.cat([torch.arange(ahead - n, 0), torch.arange(1, ahead + 1)]) + n - 1
            seen = self.logs(text[:, places[:, None] + reach])
            change += torch.where(inside[:, places + ahead], seen, 0.0)
        return torch.where(rows_NL != BOUNDARY, change, -torch.inf)

    def _sums(self, rows_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, 1) sums of the logarithms of each row, and (N, 1) how many there are."""
        windows, real = framed(rows_NL, self.order)
        return torch.where(real, self.logs(windows), 0.0).sum(1, keepdim=True), real.sum(1, keepdim=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Level:
    """The table of one order.

    Args:
        keys: (G,) int64, the n-grams as ascending numbers.
        counts: (G,) float64.
        contexts: (C,) int64, the contexts, which are the n-grams without their last word, as ascending numbers.
        totals: (C,) float64, counts of all n-grams of each context.
        kinds: (C,) float64, distinct words after each context.
        discount: taken off every count, in (0, 1].
    """

    keys: Tensor
    counts: Tensor
    contexts: Tensor
    totals: Tensor
    kinds: Tensor
    discount: float

    @classmethod
    def of(cls, grams: Tensor, counts: Tensor, size: int) -> Level:
        """Build the table from distinct n-grams in ascending order, and their counts."""
        keys = numbered(grams, size)
        contexts, place = (keys // size).unique_consecutive(return_inverse=True)
        totals = torch.zeros(len(contexts), dtype=torch.float64).index_add_(0, place, counts.double())
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once else 0.5  # without n-grams that occur once the estimate is 0: nothing would be left for unseen words
        return cls(
            keys=keys, counts=counts.double(), contexts=contexts, totals=totals, kinds=place.bincount(minlength=len(contexts)).double(), discount=discount
        )

    def interpolated(self, windows: Tensor, lower: Tensor, size: int) -> Tensor:
        """Return (Q,) probabilities of the last words, given those of the lower order; after an unseen context the lower order is all there is."""
        keys = numbered(windows, size)
        own = self._found(self.keys, self.counts, keys)
        total, kinds = (self._found(self.contexts, column, keys // size) for column in (self.totals, self.kinds))
        share = ((own - self.discount).clamp_min(0) + self.discount * kinds * lower) / total.clamp_min(1)
        return torch.where(total > 0, share, lower)

    @staticmethod
    def _found(table: Tensor, column: Tensor, keys: Tensor) -> Tensor:
        place = torch.searchsorted(table, keys).clamp_max(len(table) - 1)
        return torch.where(table[place] == keys, column[place], 0.0)


def check_order(order: int, size: int, slot: str = "defense.train") -> None:
    """Refuse n-grams that are no numbers of 64 bits; `slot` is where the order is set.

    Raises:
        ConfigError: names the largest order.
    """
    if size**order >= 1 << 63:
        largest = max(each for each in range(order) if size**each < 1 << 63)
        raise ConfigError(f"{slot}.order={order}: n-grams of {order} of {size:,} words do not fit in 64 bits; give {largest} or less")


def framed(rows_NL: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return (N, L + 1, n) windows, one for each word and for the closing boundary, and (N, L + 1) bool, those before the padding."""
    text = torch.nn.functional.pad(rows_NL, (order - 1, 1))
    length = (rows_NL != BOUNDARY).sum(1, keepdim=True)
    return text.unfold(1, order, 1), torch.arange(rows_NL.shape[1] + 1) <= length


def numbered(grams: Tensor, size: int) -> Tensor:
    """Return (G,) int64, the number that each (G, n) n-gram is with its words as digits."""
    keys = torch.zeros(len(grams), dtype=torch.int64)
    for column in grams.unbind(1):
        keys = keys * size + column
    return keys
