"""Knowledge expansion: more passages are read, so that inserted ones are outnumbered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.errors import ConfigError
from poisonbench.core.retrieve import retrieving


@dataclass(frozen=True, kw_only=True)
class ExpandK:
    """Read more passages than the learner would.

    Source: Zou, Geng, Wang, Jia, "PoisonedRAG", USENIX Security 2025, knowledge expansion: with more passages than were inserted, some of those that
    are read are clean. They find that it lowers the success of the attack only in part.

    It helps only if the corpus states the right answer more often than the attacker states the wrong one, since deeper passages are about other things.

    Args:
        top: passages that are read, 1 or more (paper: up to 50, of 5 without the defense).
    """

    VERSION: ClassVar[int] = 1
    top: int

    def __post_init__(self) -> None:
        """Check the number of passages."""
        if self.top < 1:
            raise ConfigError(f"defense.train.top={self.top}: give a number of passages to read of 1 or more")

    def __call__(self, learner: object) -> object:
        """Return the learner that reads so many passages.

        Raises:
            Incompatible: a learner that searches no passages.
        """
        return retrieving(learner, self).with_top(self.top)
