"""Out-of-place language: texts in another language than the rest.

Shape letters: N rows, L languages.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class Language:
    """Drop the texts that fit another language much better than the language of most rows.

    Source: Lui and Baldwin, "langid.py: An Off-the-shelf Language Identification Tool", ACL 2012, by the package py3langid, whose model for 140
    languages is part of the package: naive Bayes over groups of up to four bytes. The language of the data set is the one that fits most rows best. The
    suspicion is the natural logarithm of how much likelier a text is in its best language than in that one.

    Short texts fit many languages: of 3,000 English messages (SMS), 200 fit another language slightly better. Above a suspicion of 20 there were nine,
    most of them in Hindi, Telugu or Tamil; of 3,000 rows each of SST-2, generated reviews and generated facts, none. Twelve sentences in seven
    other languages had 22 to 350 (training rows). Words that the task does not know are missing from a text, so a task with a small vocabulary hides
    other languages.

    Args:
        threshold: suspicion from which a text is dropped, above 0.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    FINDS: ClassVar[Finds] = Finds(kind="language", reads="none", because="it fits another language better than that of most rows")
    threshold: float

    def __post_init__(self) -> None:
        """Check that the threshold is in range."""
        if not 0 < self.threshold < math.inf:
            raise ConfigError(f"defense.sanitize.threshold={self.threshold}: give a finite number above 0")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Compare the languages that each text fits."""
        import py3langid

        ranked = [dict(py3langid.rank(data.form.text(data.inputs[row]))) for row in track(len(data), "languages")]
        counted = Counter(max(scores, key=scores.__getitem__) for scores in ranked)
        common = min(counted, key=lambda language: (-counted[language], language))
        suspicion = torch.tensor([max(scores.values()) - scores[common] for scores in ranked], dtype=torch.float32)
        return Verdict(keep=suspicion < self.threshold, suspicion=suspicion)
