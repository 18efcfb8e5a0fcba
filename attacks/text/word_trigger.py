"""Rare words as a trigger: BadNets for text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.text.triggers import Place, RareWords, TextBackdoor, choice, fits
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class WordTrigger(TextBackdoor):
    """Put rare words into some training rows and give them the target label.

    Source: Chen et al., "BadNL: Backdoor Attacks against NLP Models with Semantic-preserving Improvements", ACSAC 2021 (word-level, static
    triggers). The five words are those of Kurita, Michel, Neubig, "Weight Poisoning Attacks on Pre-trained Models", ACL 2020.

    Differences: BadNL puts one fixed word at a fixed place; with `words: [cf]` and place "start" or "end" this is the same. With several words,
    each row gets a random one, as in OpenBackdoor. BadNL's "middle" is not offered; "random" is. Rows of the target class are left
    out of dirty labels, since their label would not change; OpenBackdoor leaves them out as well.

    Args:
        labels: "dirty", "clean" or "mixed"; see `TextBackdoor`.
        target: target label.
        words: the rare words. They have to be in the vocabulary of the task; `task.words` adds words to it.
        count: words that a row gets, 1 or more, each drawn from `words`.
        place: "start", "end" or "random", drawn separately for each word.
    """

    VERSION: ClassVar[int] = 1
    words: tuple[str, ...]
    count: int
    place: Place

    def __post_init__(self) -> None:
        """Check that there are words to put in."""
        super().__post_init__()
        choice(self.place)
        if not self.words or self.count < 1:
            raise ConfigError(f"attack.data: words={list(self.words)}, count={self.count}; give at least one word and a count of 1 or more")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the trigger in as many of them as the budget allows.

        Raises:
            ConfigError: see `TextBackdoor.planted`.
        """
        return self.planted(known, rng)

    def trigger(self, form: Tokens, length: int, key: Key) -> RareWords:
        """Return the trigger.

        Raises:
            ConfigError: a word that is not in the vocabulary, or more words than a row has places.
        """
        fits(self.count, length)
        return RareWords(words=torch.tensor(form.ids(self.words)), count=self.count, place=self.place, key=key)
