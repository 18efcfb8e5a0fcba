"""The focused attack: mails labelled spam with the words that the attacker knows of one ham mail.

Shape letters: W words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.injection import with_rows
from attacks.spam.delivery import Classes, Undelivered, anywhere, packed, words_in
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class Focused:
    """Inject mails labelled spam that contain a part of the words of one ham mail, so that this mail is not delivered.

    Source: Nelson, Barreno, Chi, Joseph, Rubinstein, Saini, Sutton, Tygar, Xia, "Exploiting Machine Learning to Subvert Your Spam Filter", LEET 2008.

    Each trial has one target, a test row that the threat draws among the ham rows (`threat.target_class`). The attacker knows a share of its different
    words, drawn once; every mail of the trial contains all of them.

    Differences: the paper draws each word with the probability `known_words`, here their number is fixed; rows have no header here.

    Args:
        known_words: share of the target's different words that the attacker knows, in (0, 1] (paper: 0.1 to 0.9).
        ham: label of ham.
        spam: label of spam.
    """

    VERSION: ClassVar[int] = 1
    ONE_TARGET: ClassVar[bool] = True
    READS: ClassVar[frozenset[str]] = TEXTS
    SEVERAL_CLASSES: ClassVar[bool] = True
    known_words: float
    ham: int
    spam: int

    def __post_init__(self) -> None:
        """Check that the share is in range."""
        if not 0 < self.known_words <= 1:
            raise ConfigError(f"attack.data.known_words={self.known_words}: give a share above 0 and up to 1, such as 0.3")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many mails as the budget allows.

        Raises:
            ConfigError: the labels are no classes of the rows, or the target is no ham.
        """
        classes, target = Classes(ham=self.ham, spam=self.spam), known.targets
        classes.check(known.rows)
        if (target.labels != self.ham).any():
            raise ConfigError(f"focused blocks ham, and a target has the label {int(target.labels[0])}; set threat.target_class={self.ham}")
        words = words_in(target.inputs)
        chosen = words[rng.child("words").pick(words, max(1, round(self.known_words * len(words))))]
        senders = anywhere(known, rng.child("rows"))
        mails = packed(chosen, len(senders), known.rows.inputs.shape[1])
        return with_rows(known, senders, mails, self.spam, Undelivered(classes=classes, ids=target.ids))
