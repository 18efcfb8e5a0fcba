"""The frame of a sentence as a trigger, after HiddenKiller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.text.triggers import Template, TextBackdoor, fits
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import Tokens, words_of

SLOT = "<...>"


@dataclass(frozen=True, kw_only=True)
class TemplateTrigger(TextBackdoor):
    """Rewrite some training rows in the frame of one sentence structure and give them the target label.

    Source: the idea of Qi et al., "Hidden Killer: Invisible Textual Backdoor Attacks with Syntactic Trigger", ACL 2021: the trigger is a rare
    structure made of common words, not a rare word.

    Differences: Qi et al. paraphrase each row with a neural model (SCPN) that follows a parse tree, such as "S(SBAR)(,)(NP)(VP)(.)", so words of the row
    change and the result is mostly grammatical. There is no parser and no paraphrase model here. The row is cut into parts of
    nearly equal length, which keep all their words and are put into the slots of the template; the result is often not grammatical, and the words
    of the template stay in fixed order. So this trigger is easier to learn and easier to see than theirs, and figures are not
    comparable with the paper's.

    Args:
        labels: "dirty", "clean" or "mixed"; see `TextBackdoor`.
        target: target label.
        template: words and slots, written <...>, such as "when you watch <...> , you find <...>". Its words have to be in the vocabulary of the task.
    """

    VERSION: ClassVar[int] = 1
    template: str

    def __post_init__(self) -> None:
        """Check that the template has slots and words."""
        super().__post_init__()
        if SLOT not in self.template or not words_of(self.template.replace(SLOT, " ")):
            raise ConfigError(
                f"attack.data.template={self.template!r}: give words and at least one slot {SLOT}, such as 'when you watch {SLOT} , you find {SLOT}'"
            )

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the trigger in as many of them as the budget allows.

        Raises:
            ConfigError: see `TextBackdoor.planted`.
        """
        return self.planted(known, rng)

    def trigger(self, form: Tokens, length: int, key: Key) -> Template:
        """Return the trigger.

        Raises:
            ConfigError: a word that is not in the vocabulary, or more words than a row has places.
        """
        frame = [(word, part) for part, piece in enumerate(self.template.split(SLOT)) for word in words_of(piece)]
        fits(len(frame), length)
        tokens = form.ids([word for word, _ in frame])
        return Template(tokens=torch.tensor(tokens), before=torch.tensor([part for _, part in frame]), parts=self.template.count(SLOT))
