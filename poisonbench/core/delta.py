"""A poisoned data set as its difference from the clean one: small to store, and exact.

Shape letters: R edited rows, I injected rows, N' rows after poisoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.audit import changed_rows
from poisonbench.core.data import Dataset
from poisonbench.core.goals import Goal
from poisonbench.core.manifest import Manifest


@dataclass(frozen=True, eq=False, kw_only=True)
class Delta:
    """The difference between a clean data set and an audited poisoned one.

    Args:
        base: digest of the clean data set.
        rows: (R,) int64, positions of the edited rows.
        edited: every column's new values for those rows.
        injected: every column of the (I,) rows after the clean ones.
        mask: (N',) bool, the rows that the attacker edited or injected.
        goal: what the attacker wants.
        cover: (N',) bool, the rows of the mask that only hide the poison; None for none.
        origins: (I,) int64, the clean rows that injected rows were made from; None if the attack does not name them.
        manifest: the signed list that the attacker delivers; None if it is the publisher's, of the poisoned rows.
    """

    base: str
    rows: Tensor
    edited: Mapping[str, Tensor]
    injected: Mapping[str, Tensor]
    mask: Tensor
    goal: Goal
    cover: Tensor | None = None
    origins: Tensor | None = None
    manifest: Manifest | None = None

    @classmethod
    def between(cls, clean: Dataset, poisoned: Poisoned) -> Delta:
        """Return the difference; `poisoned` must have passed the audit, which checks that clean rows kept their order."""
        old, after = len(clean), poisoned.data.columns
        rows = changed_rows(clean, poisoned.data).nonzero()[:, 0]
        edited = {name: column[rows] for name, column in after.items()}
        injected = {name: column[old:] for name, column in after.items()}
        return cls(
            base=clean.digest,
            rows=rows,
            edited=edited,
            injected=injected,
            mask=poisoned.mask,
            goal=poisoned.goal,
            cover=poisoned.cover,
            origins=poisoned.origins,
            manifest=poisoned.manifest,
        )

    def apply(self, clean: Dataset) -> Poisoned:
        """Return the poisoned data set; `clean` is the data set that the difference was taken from."""
        assert clean.digest == self.base, "a delta applies to its own base alone"
        data = clean.edit(self.rows, **self.edited)
        if len(self.mask) > len(clean):
            data = data.append(clean.with_columns(self.injected))
        return Poisoned(data=data, mask=self.mask, goal=self.goal, cover=self.cover, origins=self.origins, manifest=self.manifest)
