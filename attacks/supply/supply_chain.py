"""An attack on the way from the publisher of a training set to its user."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

from poisonbench.core.attack import DataAttack, Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.manifest import Manifest, signed
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known

log = logging.getLogger("poisonbench")
ATTACKER = "the attacker"


@dataclass(frozen=True, kw_only=True)
class SupplyChain:
    """Poison the files of a training set on their way to the user, and choose the signed list that comes with them.

    Source: the split-view and frontrunning poisoning of Carlini, Jagielski, Choquette-Choo, Paleka, Pearce, Anderson, Terzis, Thomas, Tramer, "Poisoning
    Web-Scale Training Datasets is Practical", IEEE S&P 2024: rows change after, or just before, their digests are taken. Rollback to an old list:
    Samuel, Mathewson, Cappos, Dingledine, "Survivable Key Compromise in Software Update Systems", CCS 2010.

    Any other attack on rows can be the poison, under `like`. The publisher's key is out of the attacker's reach: the referee refuses a forged
    signature. `defense=signed_manifest` checks the list; no other defense reads it.

    Args:
        manifest: the list that comes with the poisoned rows. "kept": the publisher's list of the clean rows. "own_key": a new list of the poisoned
            rows, signed with the attacker's key. "replayed": the publisher's list of an earlier version. "before": the rows were poisoned before
            the publisher signed, so the list has the poisoned rows.
        earlier: share of the clean rows that the earlier version had, drawn at random, in (0, 1]; for "replayed".
        like: the attack that poisons the rows.
    """

    VERSION: ClassVar[int] = 1
    manifest: Literal["kept", "own_key", "replayed", "before"]
    earlier: float
    like: DataAttack

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 < self.earlier <= 1:
            raise ConfigError(f"attack.data.earlier={self.earlier}: give the share of the rows that the earlier version had, above 0 and at most 1")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows as `like` poisons them, with the list."""
        poisoned = self.like.poison(known, rng)
        if self.manifest == "before":
            log.warning("supply_chain: the rows were poisoned before they were signed, so the publisher's list has the poisoned rows and a check finds none")
        return dataclasses.replace(poisoned, manifest=self.listed(known, poisoned, rng.child("earlier")))

    def listed(self, known: Known, poisoned: Poisoned, rng: Key) -> Manifest | None:
        """Return the list that comes with the rows; None: the publisher signs the poisoned rows."""
        if self.manifest == "before":
            return None
        if self.manifest == "own_key":
            return signed(poisoned.data, ATTACKER)
        if self.manifest == "kept":
            return signed(known.rows)
        order = rng.per_row(known.rows.ids)[:, 0].argsort(stable=True)
        return signed(known.rows.take(order[: max(1, round(self.earlier * len(order)))].sort().values))
