"""Fine-tuning: a network trained on public rows, all of whose weights are then trained further on the rows of the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Around, Combine, Fitted, State, Trained, Victim
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.learn.central import Central


@dataclass(frozen=True, kw_only=True)
class FineTune(Around):
    """Train a network on public rows, then continue with the training rows, with all weights free.

    Source: the fine-tuning setting of Schwarzschild, Goldblum, Gupta, Dickerson, Goldstein, "Just How Toxic Is Data Poisoning?", ICML 2021, and of
    Geiping et al., "Witches' Brew", ICLR 2021. There the first network comes from another data set; here it is trained on `task.public`, rows of the
    same kind that cannot be poisoned. The statistics of the inputs are those of the public rows.

    `learner=transfer` is the setting in which the first network stays frozen.

    Args:
        member: recipe of the fine-tuning, for the same network; attacks and defenses that act on the training act on it alone.
        base: recipe of the first training.
        fitted: the state of the first network, once it is trained.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"
    member: Central
    base: Central
    fitted: State = field(default_factory=dict)

    @property
    def READS(self) -> frozenset[str] | None:
        """The forms that the network can read, None for any."""
        return getattr(self.base.net, "READS", None)

    @property
    def stages(self) -> frozenset[str]:
        """All slots of a central training."""
        return self.member.stages

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse two different networks, and what either recipe refuses.

        Raises:
            ConfigError: the recipes name different networks.
        """
        if self.base.net != self.member.net:
            raise ConfigError("learner=finetune: learner.base.net and learner.member.net differ; fine-tuning needs the same network in both")
        self.base.check(data, combine)
        self.member.check(data, combine)

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this recipe with its first network trained on the public rows.

        Raises:
            ConfigError: there are no public rows.
        """
        if len(public) == 0:
            raise ConfigError("learner=finetune trains its first network on public rows; set task.public to a share above 0, such as 0.5")
        fitted = self.fitted if fit is None else dict(fit(self.base, public).state())
        return dataclasses.replace(self, member=self.member.with_public(public, fit), fitted=fitted)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Fine-tune the first network, or continue with `start`."""
        return self.member.fit(data, combine, rng, start or self._first(data, combine))

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Fine-tune one victim per part."""
        return self.member.fit_many(parts, combine, rngs, start or self._first(parts[0], combine))

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild a victim."""
        return self.member.restore(trained, like, combine)

    def _first(self, like: Dataset, combine: Combine) -> Victim:
        assert self.fitted, "with_public comes first"
        return self.base.restore(Trained(state=self.fitted, facts={}), like, combine)
