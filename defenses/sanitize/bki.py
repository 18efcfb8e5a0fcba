"""Backdoor keyword identification: a trigger word changes what the victim makes of every row that contains it.

Shape letters: N rows, L tokens, D features, V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Victim
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens, joined

ROWS = 100  # rows whose words are left out one by one at a time


@dataclass(frozen=True, kw_only=True)
class Bki:
    """Drop the rows in which a suspicious word is one of those that change the victim's features most.

    Source: Chen and Dai, "Mitigating Backdoor Attacks in LSTM-based Text Classification Systems by Backdoor Keyword Identification", Neurocomputing
    2021: the weight of a word in a row is the largest change of a feature, |h(x) - h(x without the word)|, in the undefended victim; the `words`
    with the largest weights are the row's keywords. A word that is a keyword of n rows has the score log10(n) times the mean of its weights there.

    Differences: the paper drops the rows of the one word with the largest score, and so does the most used port; a trigger of several words then
    stays. Here `keywords` of them are suspicious, or all words whose score is an outlier among the scores of all keywords. Words and rows are
    counted for each label by itself, since a trigger has one target. A word that occurs several times in a row is left out at all of its places.

    Args:
        words: keywords of each row, 1 or more (paper: 5).
        keywords: suspicious words, 1 or more; null: those whose score is above the median by more than `spread` times the median absolute deviation.
        spread: above 0; used if `keywords` is null.
        rows: fewest rows that a word has to be a keyword of, 2 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = frozenset({"tokens"})
    BY_CLASS: ClassVar[bool] = True
    words: int
    keywords: int | None
    spread: float
    rows: int
