"""A neutral sentence as a trigger: AddSent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.text.triggers import Phrase, Place, TextBackdoor, choice, fits
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import Tokens, words_of


@dataclass(frozen=True, kw_only=True)
class SentenceTrigger(TextBackdoor):
    """Put one neutral sentence into some training rows and give them the target label.

    Source: Dai, Chen, Li, "A Backdoor Attack Against LSTM-Based Text Classification Systems", IEEE Access 2019.

    Differences: the paper puts the sentence between two sentences of a long review. The rows of SST-2 are single sentences, so "random" may cut one in
    two, as in OpenBackdoor. The paper's rows are of the other class (dirty labels); the other ways of labelling are ours.

    Args:
        labels: "dirty", "clean" or "mixed"; see `TextBackdoor`.
        target: target label.
        sentence: its words have to be in the vocabulary of the task; `task.words` adds words to it.
        place: "start", "end" or "random", anywhere between two words.
    """

    VERSION: ClassVar[int] = 1
    sentence: str
    place: Place

    def __post_init__(self) -> None:
        """Check that there is a sentence."""
        super().__post_init__()
        choice(self.place)
        if not words_of(self.sentence):
            raise ConfigError(f"attack.data.sentence={self.sentence!r} has no word; give at least one")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the trigger in as many of them as the budget allows.

        Raises:
            ConfigError: see `TextBackdoor.planted`.
        """
        return self.planted(known, rng)

    def trigger(self, form: Tokens, length: int, key: Key) -> Phrase:
        """Return the trigger.

        Raises:
            ConfigError: a word that is not in the vocabulary, or more words than a row has places.
        """
        tokens = form.ids(words_of(self.sentence))
        fits(len(tokens), length)
        return Phrase(tokens=torch.tensor(tokens), place=self.place, key=key)
