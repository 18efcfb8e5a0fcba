"""Backdoor keyword identification: a trigger word changes what the victim makes of every row that contains it.

Shape letters: N rows, L tokens, D features, k keywords of a row, S scored words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS, joined

ROWS = 200  # rows that are taken apart at a time, fewer where they are long
PAIRS = 1 << 24  # pairs of places that are compared at a time; one long row may have more
NUMBERS = 1 << 25  # words or features that are held at a time


@dataclass(frozen=True, kw_only=True)
class Bki:
    """Drop the rows whose features depend most on a suspicious word.

    Source: Chen and Dai, "Mitigating Backdoor Attacks in LSTM-based Text Classification Systems by Backdoor Keyword Identification", Neurocomputing
    2021: the weight of a word in a row is the largest change of a feature, max |h(x) - h(x without the word)|, in the undefended victim; the `words`
    of largest weight are the row's keywords. A word that is a keyword of n rows has the score log10(n) times its mean weight there. This form of
    the score is that of the library OpenBackdoor. The paper's formula was not at hand, and may have a further factor, log10(s / n) with a constant s.

    Differences: the paper and the most used port suspect only the word of largest score, so a trigger that is one of several words stays. Here
    `keywords` words are suspected, or all whose score is an outlier. Scores are counted within each label, since a trigger has a target, and rows
    are dropped only where the word is suspected for their label. A word is left out at all of its places in a row.

    The default of `spread` was chosen on SST-2. On the generated reviews (`attack=text`, task=sentiment) the poison stays below that bar, so the
    defaults drop none of it: the largest score of the target class is 12.1 to 14.2 deviations above the median, that of the other 5.5 to 6.6 (seeds
    100 to 102). The suspicion still ranks poisoned rows above the others of their class (AUROC within the class 1.000).

    Args:
        words: keywords of each row, 1 or more (paper: 5).
        keywords: words that are suspected, 1 or more (paper: 1); null: those whose score exceeds the median of all scores of their label by more than
            `spread` times the median absolute deviation, and none if there are no such words.
        spread: above 0. Words of clean rows reached 13.5 on SST-2 (three seeds), where the default was chosen.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    BY_CLASS: ClassVar[bool] = True
    FINDS: ClassVar[Finds] = Finds(kind="backdoor", reads="full", because="it has a word that decides the answer {label} in many rows", scale="class")
    words: int
    keywords: int | None
    spread: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.words < 1 or (self.keywords is not None and self.keywords < 1) or not self.spread > 0:
            raise ConfigError(f"defense.sanitize: words={self.words} and keywords={self.keywords} are 1 or more, spread={self.spread} is above 0")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Find the keywords of each row, score them within each label, and drop the rows of the suspected ones."""
        found = keywords(means.fit(data), data.inputs, self.words)
        scores, bars = torch.zeros(found.words.shape, dtype=torch.float64), torch.zeros(len(data), 1, dtype=torch.float64)
        told = list[Tensor]()
        for label in data.labels.unique().tolist():
            rows = data.labels == label
            each = scored(found.take(rows))
            scores[rows], bars[rows] = each.of_places, outlier(each.of_words, self.spread)
            told.append(each.of_words)
        if self.keywords is not None:
            largest = torch.cat(told).sort(descending=True).values[: self.keywords]
            bars.fill_(float(largest[-1]) if len(largest) else torch.inf)
        suspected = (scores >= bars) & (scores > 0)  # a keyword of a single row has the score 0
        return Verdict(keep=~suspected.any(1), suspicion=scores.max(1).values.float())


class Keywords(NamedTuple):
    """The keywords of each row.

    Args:
        words: (N, k) int64 token ids; 0 where a row has fewer words.
        weights: (N, k) float64, the largest change of a feature without the word; 0 where there is none.
    """

    words: Tensor
    weights: Tensor

    def take(self, rows: Tensor) -> Keywords:
        """Return those of these rows."""
        return Keywords(self.words[rows], self.weights[rows])


class Scores(NamedTuple):
    """The scores of keywords.

    Args:
        of_words: (S,) float64, one score for each distinct keyword.
        of_places: (N, k) float64, the score of the keyword at each place of `Keywords.words`; 0 where there is none.
    """

    of_words: Tensor
    of_places: Tensor


def keywords(victim: Victim, inputs_NL: Tensor, count: int) -> Keywords:
    """Return the `count` words of each row without which a feature of the victim changes most."""
    lengths = (inputs_NL != 0).sum(1)
    words, weights = (torch.zeros(len(inputs_NL), count, dtype=dtype) for dtype in (torch.int64, torch.float64))
    parts = portions(lengths)
    for place in track(len(parts), "rows without each word"):
        some = inputs_NL[parts[place]]
        best = weighed(victim, some).topk(min(count, some.shape[1]), dim=1)
        real = best.values >= 0
        words[parts[place], : real.shape[1]] = torch.where(real, some.gather(1, best.indices), 0)
        weights[parts[place], : real.shape[1]] = best.values.clamp_min(0)
    return Keywords(words, weights)


def portions(lengths_N: Tensor) -> list[Tensor]:
    """Return positions of rows: rows of one length together, so that there is less padding to read, and few rows where they are long."""
    order = lengths_N.argsort(stable=True)
    return [few for some in order.split(ROWS) for few in some.split(max(1, PAIRS // max(1, int(lengths_N[some].amax()) ** 2)))] if len(order) else []


def weighed(victim: Victim, inputs_NL: Tensor) -> Tensor:
    """Return (N, L) float64 weights of words, at the first place of each word in its row; -1 at all other places."""
    short = inputs_NL[:, : int((inputs_NL != 0).sum(1).amax())]  # without the padding that all rows have
    same = short[:, :, None] == short[:, None, :]
    row, place = ((short != 0) & ~same.tril(-1).any(2)).nonzero(as_tuple=True)
    whole, found = victim.features(inputs_NL), torch.full(inputs_NL.shape, -1.0, dtype=torch.float64)
    for some in torch.arange(len(row)).split(max(1, NUMBERS // max(whole.shape[1], inputs_NL.shape[1]))):
        own = row[some]
        less = joined(short[own].masked_fill(same[own, place[some]], 0), length=inputs_NL.shape[1])
        found[own, place[some]] = (victim.features(less) - whole[own]).abs().amax(1).double()
    return found


def scored(found: Keywords) -> Scores:
    """Return the scores of the keywords of rows of one label."""
    known, place = found.words.unique(return_inverse=True)
    counts = place.flatten().bincount(minlength=len(known)).double()
    totals = torch.zeros(len(known), dtype=torch.float64).index_add_(0, place.flatten(), found.weights.flatten())
    scores = torch.where(known != 0, counts.log10() * totals / counts, 0.0)
    return Scores(scores[known != 0], scores[place])


def outlier(scores_S: Tensor, spread: float) -> float:
    """Return the score above which a word is suspected: median + spread * median absolute deviation of the words that are keywords of two rows or more."""
    several = scores_S[scores_S > 0]
    if not len(several):
        return torch.inf
    median = several.median()
    return float(median + spread * (several - median).abs().median())
