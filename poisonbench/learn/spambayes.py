"""SpamBayes: Robinson's estimate for each word, Fisher's method to combine them, and an answer between ham and spam.

Shape letters: N rows, M test rows, L tokens of a row, C candidate rows, V words of the vocabulary, W distinct words of a row, K = 3 classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Combine, State, Trained, Victim
from poisonbench.core.plain import PlainLearner, PlainVictim
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS, Tokens
from poisonbench.learn import device

HAM, SPAM, UNSURE, KINDS = 0, 1, 2, 3
BLOCK = 4_000_000  # words looked up at a time, 32 MB of scores


@dataclass(frozen=True, kw_only=True)
class SpamBayes(PlainLearner):
    """The filter of the SpamBayes project, which answers ham, spam or unsure.

    Source: Robinson, "A Statistical Approach to the Spam Problem", Linux Journal 2003; Nelson et al., "Exploiting Machine Learning to Subvert Your
    Spam Filter", LEET 2008. For a word w in s_w of N_S spam and in h_w of N_H ham rows, n = s_w + h_w,

        p_w = N_H s_w / (N_H s_w + N_S h_w)          f_w = (s x + n p_w) / (s + n)
        H = 1 - chi2_2m(-2 sum log f_w)              S = 1 - chi2_2m(-2 sum log(1 - f_w))              I = (1 + H - S) / 2

    with the sums over the m words of a row whose |f_w - 0.5| is largest, and chi2_2m the distribution function with 2m degrees of freedom. A word
    counts once per row. The answer is ham where I <= ham, spam where I > spam, and unsure between.

    Differences: words are those of the task, without SpamBayes' own tokens for headers, word pairs and long words. A class without rows counts as
    one row, as in the project's code. Rows that are labelled unsure are not used.

    Args:
        strength: s, the weight of the prior in rows, above 0 (SpamBayes: 0.45).
        prior: x, the score of an unknown word, in (0, 1) (SpamBayes: 0.5).
        most: largest number of words of a row that are combined, 1 or more (paper: 150).
        margin: words with |f_w - 0.5| below it are left out, in [0, 0.5) (paper: 0.1).
        ham: largest I of ham, in [0, 1] (paper: 0.15).
        spam: largest I that is not spam, from `ham` to 1 (paper: 0.9).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    strength: float
    prior: float
    most: int
    margin: float
    ham: float
    spam: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (self.strength > 0 and 0 < self.prior < 1 and self.most >= 1 and 0 <= self.margin < 0.5):
            raise ConfigError("learner: strength is above 0, prior lies in (0, 1), most is 1 or more, margin lies in [0, 0.5)")
        if not 0 <= self.ham <= self.spam <= 1:
            raise ConfigError(f"learner: ham={self.ham} and spam={self.spam} are scores from 0 to 1, ham not above spam")

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions; always the CPU."""
        return device.runtime("cpu")

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse a task whose answers are not ham, spam and unsure.

        Raises:
            Incompatible: another number of classes.
        """
        if data.num_classes != KINDS:
            raise Incompatible(f"SpamBayes answers ham, spam or unsure, and this task has {data.num_classes} classes; use a task of spam, such as task=spam")

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> SpamBayesVictim:
        """Count in how many ham and spam rows each word is; nothing is random."""
        width = len(cast("Tokens", data.form).vocabulary)
        rows = [data.inputs[data.labels == label] for label in (HAM, SPAM)]
        counts = torch.stack([counted(part, width) for part in rows])
        sizes = torch.tensor([len(part) for part in rows])
        return SpamBayesVictim(learner=self, counts=counts, sizes=sizes, facts={"rows": len(data), "words": int((counts.sum(0) > 0).sum())})

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> SpamBayesVictim:
        """Rebuild a victim."""
        return SpamBayesVictim(learner=self, counts=trained.state["counts"], sizes=trained.state["sizes"], facts=trained.facts)

    def word_scores(self, counts_2V: Tensor, sizes_2: Tensor) -> Tensor:
        """Return f_w, (V,) float64."""
        ham, spam = counts_2V.double()
        hams, spams = sizes_2.clamp_min(1).double()
        seen = ham + spam
        share = (hams * spam / (hams * spam + spams * ham)).nan_to_num(0.5)  # a word in no row: n = 0, so any p_w will do
        scores: Tensor = (self.strength * self.prior + seen * share) / (self.strength + seen)
        return scores

    def evidence(self, scores_W: Tensor) -> Tensor:
        """Return -2 sum log f_w, -2 sum log(1 - f_w) and m, (..., 3) float64, for word scores (..., W) with NaN where a row has no further word."""
        distance = (scores_W - 0.5).abs().nan_to_num(-1.0)
        if scores_W.shape[-1] > self.most:
            order = distance.argsort(dim=-1, descending=True, stable=True)[..., : self.most]
            scores_W, distance = scores_W.gather(-1, order), distance.gather(-1, order)
        chosen = distance >= self.margin
        scores = torch.where(chosen, scores_W, 0.5)
        logs = [-2 * torch.where(chosen, side.log(), 0.0).sum(-1) for side in (scores, 1 - scores)]
        return torch.stack([*logs, chosen.sum(-1).double()], -1)

    def table(self, indicator: Tensor) -> Tensor:
        """Return the scores (..., K) float32 for I: I/2 for spam, (1 - I)/2 for ham, 0 for unsure, and 1 more for the answer, which is so the largest."""
        answer = torch.where(indicator <= self.ham, HAM, torch.where(indicator > self.spam, SPAM, UNSURE))
        ranks = torch.stack([(1 - indicator) / 2, indicator / 2, torch.zeros_like(indicator)], -1)
        return (torch.nn.functional.one_hot(answer, KINDS) + ranks).float()


@dataclass(frozen=True, eq=False, kw_only=True)
class SpamBayesVictim(PlainVictim):
    """Counts of words.

    Args:
        learner: the recipe.
        counts: (2, V) int64, in how many ham and spam rows each word is.
        sizes: (2,) int64, the number of ham and spam rows.
    """

    learner: SpamBayes
    counts: Tensor
    sizes: Tensor

    @cached_property
    def word_scores(self) -> Tensor:
        """f_w of every word, (V,) float64; NaN for padding."""
        return padded(self.learner.word_scores(self.counts, self.sizes))

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32; see `SpamBayes.table`."""
        return self.learner.table(indicator(self._evidence(inputs)))

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, 3) float32: -2 sum log f_w, -2 sum log(1 - f_w), and the number m of words combined; I follows from them."""
        return self._evidence(inputs).float()

    def _evidence(self, inputs: Tensor) -> Tensor:
        some = max(1, BLOCK // max(1, inputs.shape[1]))
        return torch.cat([self.learner.evidence(self.word_scores[once(rows)]) for rows in inputs.split(some)])

    def scores_after(self, added: Dataset, inputs: Tensor) -> Iterator[Tensor]:
        """Yield (c, M, K) float32, the scores of `inputs` by this victim with one row of `added` more, for slices of c rows; see `Additive`.

        A row changes the counts of its own words by one, and the size of its class by one, which moves every word a little.
        """
        words_U, places_MW = once(inputs).unique(return_inverse=True)
        moved = [self._moved(label) for label in (HAM, SPAM, UNSURE)]
        lacks_KU, has_KU = (torch.stack([pair[side] for pair in moved])[:, words_U] for side in (0, 1))
        for rows in torch.arange(len(added)).split(max(1, BLOCK // places_MW.numel())):
            labels = added.labels[rows]
            scores_CU = torch.where(present(added.inputs[rows], len(self.word_scores))[:, words_U], has_KU[labels], lacks_KU[labels])
            yield self.learner.table(indicator(self.learner.evidence(scores_CU[:, places_MW])))

    def _moved(self, label: int) -> tuple[Tensor, Tensor]:
        """Return twice (V,) word scores after a row of this label is added: of words that the row lacks, and of words that it has."""
        if label == UNSURE:
            return self.word_scores, self.word_scores
        more = torch.zeros(2, dtype=torch.int64)
        more[label] = 1
        sizes = self.sizes + more
        lacks, has = (padded(self.learner.word_scores(counts, sizes)) for counts in (self.counts, self.counts + more[:, None]))
        return lacks, has

    def state(self) -> State:
        """Return counts and sizes."""
        return {"counts": self.counts, "sizes": self.sizes}


def indicator(evidence_3: Tensor) -> Tensor:
    """Return I, (...) float64 in [0, 1], for what `SpamBayes.evidence` returns, (..., 3); 0.5 for a row without words that count."""
    spam, ham, words = evidence_3.unbind(-1)
    freedom = words.clamp_min(1)
    upper = [torch.special.gammaincc(freedom, side / 2) for side in (spam, ham)]  # 1 - chi2_2m(x) is the upper incomplete gamma function Q(m, x/2)
    return torch.where(words > 0, (1 + upper[0] - upper[1]) / 2, 0.5)


def padded(scores_V: Tensor) -> Tensor:
    """Return word scores with NaN for padding, which is no word."""
    return torch.cat([scores_V.new_full((1,), torch.nan), scores_V[1:]])


def filled(inputs: Tensor) -> Tensor:
    """Return (M, L) inputs without the last columns in which every row has padding; one column is always left."""
    return inputs[:, : max(1, int((inputs > 0).sum(1).max())) if len(inputs) else 1]


def once(inputs: Tensor) -> Tensor:
    """Return (M, W) int64, the distinct words of each row in ascending order, each at most once, with 0 in the other places."""
    ordered = filled(inputs).sort(1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(again, 0)


def present(inputs: Tensor, width: int) -> Tensor:
    """Return (M, V) bool, which words each row has; padding counts as none."""
    found = torch.zeros(len(inputs), width, dtype=torch.bool).scatter_(1, filled(inputs), True)
    found[:, 0] = False
    return found


def counted(inputs: Tensor, width: int) -> Tensor:
    """Return (V,) int64, in how many rows each word is."""
    some = max(1, BLOCK // width)
    return sum((present(rows, width).sum(0) for rows in inputs.split(some)), torch.zeros(width, dtype=torch.int64))
