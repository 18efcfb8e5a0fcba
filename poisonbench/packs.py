"""Poison packs: poison apart from the data set that it is for, as two files without pickle.

A pack names the clean rows that it changes by their ids, and contains their digests, so it fits one data set only. `pack.safetensors` contains the rows
and what the attacker wants, `pack.json` where they come from and the digest of the other file.

Shape letters: R changed rows, I injected rows, M probed test rows, K classes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import bounded, write_together
from poisonbench.core.goals import Degrade, Probe
from poisonbench.core.keys import key
from poisonbench.core.manifest import row_digests

FORMAT = 1
HEAD, ROWS = "pack.json", "pack.safetensors"
HEADS = {"degrade": bool, "form": str, "sha256": str, "told": dict}
UNTOLD = ("ids", "owners")
NO_ROWS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, eq=False, kw_only=True)
class Pack:
    """Poison for one data set.

    Args:
        ids: (R,) int64, the clean rows that the poison replaces.
        before: (R, 32) uint8, the digests of these clean rows (`row_digests`).
        edited: their new values in every column except ids and owners.
        cover: (R,) bool, the rows that only hide the poison.
        injected: all columns of the (I,) injected rows; empty for none.
        origins: (I,) int64, the ids of the clean rows that these were made from; empty if they are not named.
        probed: (M,) int64, the ids of the test rows on which the attack is judged.
        probed_before: (M, 32) uint8, their digests.
        probe_inputs: (M, ...), these rows as the attacker presents them.
        hit: (M, K) bool, the answers that count as a success.
        aimed: (M,) bool, the test rows that are targets themselves.
        degrade: the attacker wants a worse model on all rows, and there is no probe.
        form: digest of the form of the inputs and of the number of classes.
        told: where the pack comes from, for people.
    """

    ids: Tensor
    before: Tensor
    edited: Mapping[str, Tensor]
    cover: Tensor
    probed: Tensor
    probed_before: Tensor
    probe_inputs: Tensor
    hit: Tensor
    aimed: Tensor
    form: str
    injected: Mapping[str, Tensor] = field(default_factory=lambda: NO_ROWS)
    origins: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    degrade: bool = False
    told: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        """Count the poisoned rows."""
        return len(self.ids) + len(self.injected.get("ids", ()))


TENSORS = [field.name for field in dataclasses.fields(Pack) if field.name not in ("edited", "injected", "degrade", "form", "told")]


def form_of(rows: Dataset) -> str:
    """Return the digest of the form of the inputs and of the number of classes."""
    return key(rows.form, rows.num_classes)


def pack_of(clean: Dataset, poisoned: Poisoned, probe: Probe, test: Dataset, told: Mapping[str, object]) -> Pack:
    """Return the pack of an audited training set.

    Args:
        clean: the rows before the attack.
        poisoned: the clean rows in their order, some of them edited, then the injected ones.
        probe: of the attacker's goal.
        test: the test rows.
        told: where the pack comes from.

    Raises:
        ConfigError: the goal asks the model in a way that a pack cannot contain.
    """
    if probe.ask is not None:
        raise ConfigError("the goal of this attack asks the model in its own way, which a pack cannot contain; choose an attack that is judged on test rows")
    places, old = poisoned.mask[: len(clean)].nonzero()[:, 0], len(clean)
    columns, origins = poisoned.data.columns, poisoned.origins
    return Pack(
        ids=clean.ids[places],
        before=row_digests(clean.take(places)),
        edited={name: column[places] for name, column in columns.items() if name not in UNTOLD},
        cover=torch.zeros(len(places), dtype=torch.bool) if poisoned.cover is None else poisoned.cover[places],
        injected={name: column[old:] for name, column in columns.items()} if len(poisoned.data) > old else NO_ROWS,
        origins=clean.ids[:0] if origins is None else clean.ids[origins],
        probed=test.ids[probe.rows],
        probed_before=row_digests(test.take(probe.rows)),
        probe_inputs=probe.inputs,
        hit=probe.hit,
        aimed=torch.isin(probe.rows, probe.targets),
        degrade=isinstance(poisoned.goal, Degrade),
        form=form_of(clean),
        told=told,
    )


def write(pack: Pack, folder: Path) -> None:
    """Write both files; an older pack of this name is replaced.

    Raises:
        CannotWrite: the disk is full, or the folder must not be written.
    """
    tensors = {name: getattr(pack, name) for name in TENSORS}
    tensors |= {f"{part}.{name}": column for part in ("edited", "injected") for name, column in getattr(pack, part).items()}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    head = {
        "what": "poison pack of poisonbench",
        "format": FORMAT,
        "poisoned": len(pack),
        "injected": len(pack.injected.get("ids", ())),
        "degrade": pack.degrade,
        "form": pack.form,
        "sha256": hashlib.sha256(content).hexdigest(),
        "told": dict(pack.told),
    }
    write_together({folder / ROWS: content, folder / HEAD: (json.dumps(head, indent=1) + "\n").encode()})


def read_head(folder: Path) -> dict[str, object]:
    """Return what `pack.json` says.

    Raises:
        DataError: no pack, or one of another format.
    """
    if not (folder / HEAD).is_file():
        raise DataError(f"{folder} contains no {HEAD}; make a pack with `pack RECORD FOLDER`, or from published poison with `pack POISON FOLDER task=...`")
    try:
        head = json.loads(bounded((folder / HEAD).read_text(encoding="utf-8")))
        if head["format"] != FORMAT:
            raise DataError(f"{folder} is a pack of format {head['format']!r}, and this version reads format {FORMAT}; make it again")
        for name, kind in HEADS.items():
            if not isinstance(head[name], kind):
                raise TypeError(f"{name} is {head[name]!r}"[:100])
        return {name: head[name] for name in HEADS}
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / HEAD} is damaged ({type(error).__name__}: {error}); make the pack again") from error


def read(folder: Path) -> Pack:
    """Return a pack.

    Raises:
        DataError: no pack, another format, or files that changed since they were written.
    """
    head = read_head(folder)
    try:
        content = (folder / ROWS).read_bytes()
        if hashlib.sha256(content).hexdigest() != head["sha256"]:
            raise DataError(f"{folder / ROWS} differs from what was written; make the pack again")
        tensors = load(content)
        parts = {part: {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")} for part in ("edited", "injected")}
        whole = {name: tensors[name] for name in TENSORS}
        pack = Pack(**whole, **parts, degrade=bool(head["degrade"]), form=str(head["form"]), told=head["told"])  # type: ignore[arg-type]
        _check(pack)
        return pack
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder} is not a complete pack ({type(error).__name__}: {error}); make it again") from error


def _check(pack: Pack) -> None:
    """Refuse tensors that do not belong together.

    Raises:
        ValueError: the first fault.
    """
    changed, probed, added = len(pack.ids), len(pack.probed), len(pack.injected.get("ids", ()))
    whole = {"ids": (pack.ids, changed), "probed": (pack.probed, probed), "origins": (pack.origins, added if len(pack.origins) else 0)}
    claims = {"cover": (pack.cover, changed), "aimed": (pack.aimed, probed)}
    digests = {"before": (pack.before, changed), "probed_before": (pack.probed_before, probed)}
    for named, dtype, shape in ((whole, torch.int64, ()), (claims, torch.bool, ()), (digests, torch.uint8, (32,))):
        for name, (tensor, count) in named.items():
            if tensor.dtype != dtype or tensor.shape != (count, *shape):
                raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}")
    lengths = {*(len(column) for column in pack.edited.values()), *([changed] if pack.edited else [])}
    if lengths - {changed} or {len(column) for column in pack.injected.values()} - {added} or not len(pack.probe_inputs) == len(pack.hit) == probed:
        raise ValueError("its tensors have different numbers of rows")
    if pack.hit.dtype != torch.bool or pack.hit.ndim != 2 or len({*pack.ids.tolist()}) < changed or len({*pack.probed.tolist()}) < probed:
        raise ValueError("a row is named twice, or the answers have a wrong form")
    if not changed + added:
        raise ValueError("it has no poisoned rows")
    if not pack.hit.any(1).all():  # no test rows at all is a pack of an attack whose goal measures in its own way
        raise ValueError("a test row has no answer that the attacker wants")
