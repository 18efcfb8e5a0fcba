"""The base class of learners that use rows that no attacker can write, beside those that they train on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

from poisonbench.core.data import Dataset
from poisonbench.core.learner import Around, Combine, Fitted


@dataclass(frozen=True, kw_only=True)
class WithClean(Around):
    """A learner around another one that also has the public and the trusted rows.

    Args:
        public: rows that cannot be poisoned; may be empty.
    """

    public: Dataset | None = None

    @property
    def stages(self) -> frozenset[str]:
        """The member's slots for trainings; no certificate, which would be about the member alone."""
        return super().stages - {"defense.certify"}

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return the recipe with the public rows, which its member has too."""
        return dataclasses.replace(self, member=self.member.with_public(public, fit), public=public)

    def clean(self, combine: Combine) -> Dataset:
        """Return the rows that no attacker can write: the trusted ones, then the public ones."""
        return combine.trusted if self.public is None else combine.trusted.append(self.public)
