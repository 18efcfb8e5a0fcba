"""Poison from a file: any attack that somebody else ran, against any defense.

Shape letters: N rows, M probed rows, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.goals import Degrade, NoGoal, Probe
from poisonbench.core.keys import key
from poisonbench.core.manifest import row_digests
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.packs import UNTOLD, Pack, form_of, read, read_head

NAMED = "the task has to be the one that the pack was made for, with the same split"


@dataclass(frozen=True, eq=False, kw_only=True)
class Given(NoGoal):
    """Goal of a pack: chosen answers on the test rows that the pack contains.

    Args:
        ids: (M,) int64 ids of the test rows.
        before: (M, 32) uint8, their digests.
        inputs: (M, ...), the rows as the attacker presents them.
        hit: (M, K) bool, the answers that count as a success.
        aimed: (M,) bool, the rows that are targets themselves.
    """

    VERSION: ClassVar[int] = 1
    ids: Tensor
    before: Tensor
    inputs: Tensor
    hit: Tensor
    aimed: Tensor

    def probe(self, test: Dataset) -> Probe:
        """Return the rows of the pack.

        Raises:
            DataError: they are not among the test rows.
        """
        rows = found(self.ids, self.before, test, "test rows")
        return Probe(rows=rows, inputs=self.inputs, truth=test.labels[rows], hit=self.hit, targets=rows[self.aimed])


@dataclass(frozen=True, kw_only=True)
class PoisonPack:
    """Replace and add the rows that a pack contains.

    Source: the exchange of poison as files in Schwarzschild, Goldblum, Gupta, Dickerson, Goldstein, "Just How Toxic is Data Poisoning? A Unified
    Benchmark for Backdoor and Data Poisoning Attacks", ICML 2021.

    A pack is a folder that the command `pack` wrote, from a record or from the poison that other projects publish. It fits one task: the digest of
    every row that it changes, and of every test row on which it is judged, is checked. The referee then compares it with the threat like the output
    of any attack. The random seed changes nothing.

    Args:
        path: the folder; variables such as $DATA are expanded. null: none is chosen.
    """

    VERSION: ClassVar[int] = 1
    path: str | None

    def __post_init__(self) -> None:
        """Refuse a folder without a pack before anything is computed."""
        if self.path is not None:
            read_head(self.folder)

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            ConfigError: none is chosen.
        """
        if self.path is None:
            raise ConfigError("attack=pack: name the folder of a pack with attack.data.path=FOLDER; `pack --help` says how to make one")
        return Path(os.path.expandvars(self.path)).expanduser()

    @property
    def content(self) -> str:
        """What a pack contributes to a key: its rows, its goal and their form, and not its folder or where it comes from."""
        return "none" if self.path is None else key({name: part for name, part in read_head(self.folder).items() if name != "told"})

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with those of the pack.

        Raises:
            ConfigError: no pack is chosen, it has more rows than the budget allows, or it aims at other test rows than the threat.
            DataError: it does not fit these rows.
        """
        pack, rows = read(self.folder), known.rows
        places = found(pack.ids, pack.before, rows, "training rows")
        self.check(pack, known)
        goal = Degrade() if pack.degrade else Given(ids=pack.probed, before=pack.probed_before, inputs=pack.probe_inputs, hit=pack.hit, aimed=pack.aimed)
        if known.budget.rows(len(rows)) == 0:
            return Poisoned(data=rows, mask=known.mask(places[:0]), goal=goal)
        data, added = rows.edit(places, **pack.edited), len(pack) - len(places)
        mask, cover = (torch.cat([known.mask(chosen), torch.full((added,), kind)]) for chosen, kind in ((places, True), (places[pack.cover], False)))
        if added:
            data = data.append(rows.with_columns(pack.injected))
        origins = positions(pack.origins, rows, "training rows") if len(pack.origins) else None
        return Poisoned(data=data, mask=mask, goal=goal, cover=cover if pack.cover.any() else None, origins=origins)

    def check(self, pack: Pack, known: Known) -> None:
        """Refuse a pack that does not fit the rows or the threat; see `poison`."""
        columns, allowed = known.rows.columns, known.budget.rows(len(known.rows))
        same = pack.form == form_of(known.rows) and {*pack.edited} == columns.keys() - {*UNTOLD} and {*pack.injected} in ({*columns}, set())
        parts = [(name, part[name]) for part in (pack.edited, pack.injected) for name in part] if same else []
        if not same or any(column.dtype != columns[name].dtype or column.shape[1:] != columns[name].shape[1:] for name, column in parts):
            raise DataError(f"{self.path}: the rows of the pack have another form than those of this task; {NAMED}")
        if 0 < allowed < len(pack):
            raise ConfigError(f"{self.path} has {len(pack)} poisoned rows, but threat.budget allows {allowed}; set threat.budget.count={len(pack)}")
        aimed = pack.probed[pack.aimed].tolist()
        if not {*aimed} <= {*known.targets.ids.tolist()}:
            asked = f"threat.target_ids={str(aimed).replace(' ', '')}"
            raise ConfigError(f"{self.path} aims at other test rows than the threat; set threat.trials=1 threat.targets={len(aimed)} {asked}")


def found(ids: Tensor, before: Tensor, rows: Dataset, what: str) -> Tensor:
    """Return the positions of the rows with these ids, whose digests must be those of the pack.

    Raises:
        DataError: a row is missing or differs.
    """
    places = positions(ids, rows, what)
    if differs := int((row_digests(rows.take(places)) != before).any(1).sum()):
        raise DataError(f"{differs} of the {len(ids)} {what} that the pack names have other content here; {NAMED}")
    return places


def positions(ids: Tensor, rows: Dataset, what: str) -> Tensor:
    """Return the positions of the rows with these ids.

    Raises:
        DataError: a row is missing.
    """
    known: Mapping[int, int] = {number: place for place, number in enumerate(rows.ids.tolist())}
    missing = [number for number in ids.tolist() if number not in known]
    if missing:
        raise DataError(f"{len(missing)} of the {len(ids)} {what} that the pack names are not among those of this task (the first is {missing[0]}); {NAMED}")
    return torch.tensor([known[number] for number in ids.tolist()], dtype=torch.int64)
