"""The referee: compare what an attack did with what its threat allows. What the attack says about itself does not count.

Shape letters: N clean rows, N' rows after poisoning, I injected rows, M probed rows, K classes, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from poisonbench.core.attack import Crafted, Poisoned, Round
from poisonbench.core.data import Dataset
from poisonbench.core.duplicates import marks
from poisonbench.core.errors import BudgetError
from poisonbench.core.form import Form
from poisonbench.core.goals import Probe
from poisonbench.core.keys import tensor_digest
from poisonbench.core.manifest import Manifest, signed
from poisonbench.core.threat import Budget

NAMES = ("ids", "owners")  # columns that identify a row and its owner


@dataclass(frozen=True, eq=False, kw_only=True)
class Kinds:
    """The kind of each row of a poisoned training set, found by comparison with the clean rows. All other rows are clean.

    Args:
        poison: (N',) bool, edited or injected rows that carry the attack.
        cover: (N',) bool, edited or injected rows that only hide it.
        untouched: (N',) bool, rows of the mask that did not change, and injected copies of a clean row with its label. They count against
            the budget, but are clean rows.
        injected: (N',) bool, rows that the attacker added.
    """

    poison: Tensor
    cover: Tensor
    untouched: Tensor
    injected: Tensor

    def take(self, order: Tensor) -> Kinds:
        """Return the kinds of the rows at these positions."""
        return Kinds(poison=self.poison[order], cover=self.cover[order], untouched=self.untouched[order], injected=self.injected[order])


def kinds(clean: Dataset, poisoned: Poisoned) -> Kinds:
    """Return the kind of each row of an audited training set."""
    injected = torch.arange(len(poisoned.data)) >= len(clean)
    differs = injected.clone()
    differs[: len(clean)] = changed_rows(clean, poisoned.data)
    differs[copies(clean, poisoned.data.take(injected)).nonzero()[:, 0] + len(clean)] = False
    cover = torch.zeros_like(injected) if poisoned.cover is None else poisoned.cover
    return Kinds(poison=differs & ~cover, cover=differs & cover, untouched=poisoned.mask & ~differs, injected=injected)


def audit(clean: Dataset, poisoned: Poisoned, budget: Budget, writable: Tensor, targets: Dataset | None = None) -> None:
    """Check a poisoned training set against the clean one.

    Where no label may change, a poisoned row may not have a target's inputs with a label other than the target's. A clean-label
    threat without a norm limits inputs in no other way: the audit cannot distinguish a picture of another class from an allowed edit.

    Args:
        clean: N rows as the task gave them.
        poisoned: what the attack returned; N' >= N rows.
        budget: how much the threat allows.
        writable: (N,) bool, the rows that the attacker may change; then, if they are given, (I,) bool, the injected rows that are within its reach.
        targets: T test rows that the attacker aims at.

    Raises:
        BudgetError: the first rule that is broken.
    """
    _check_form(clean, poisoned)
    writable, added = writable[: len(clean)], writable[len(clean) :]
    if not added.all():
        raise BudgetError(f"{int((~added).sum())} injected rows are where the attacker cannot write, by threat.reach; add them to the rows that it can reach")
    old = len(clean)
    changed = changed_rows(clean, poisoned.data)
    _check_rows(changed, poisoned, budget, writable)
    _check_cover(clean, poisoned, budget)
    _check_moves(poisoned.data.take(changed.nonzero()[:, 0]), clean.take(changed), budget)
    if len(poisoned.data) > old and (budget.norm is not None or not budget.relabel):
        _check_moves(poisoned.data.take(torch.arange(old, len(poisoned.data))), clean.take(_origins(clean, poisoned)), budget)
    _check_manifest(clean, poisoned.manifest)
    if targets is not None and not budget.relabel:
        _check_targets(poisoned.data.take(poisoned.mask), targets)


def changed_rows(clean: Dataset, data: Dataset) -> Tensor:
    """Return (N,) bool, whether each clean row differs in some column from the row at its position in `data`."""
    return torch.stack([differing(column, data.columns[name][: len(clean)]) for name, column in clean.columns.items()]).any(0)


def differing(one: Tensor, other: Tensor) -> Tensor:
    """Return (N,) bool, whether two columns (N, ...) differ in each row."""
    return (one != other)[:, None].flatten(1).any(1)


def copies(clean: Dataset, rows: Dataset) -> Tensor:
    """Return (I,) bool, whether each row equals some clean row in every column except id and owner."""
    if len(rows) == 0:
        return torch.zeros(0, dtype=torch.bool)
    known = {*marks_of(clean)}
    return torch.tensor([mark in known for mark in marks_of(rows)])


def marks_of(data: Dataset) -> list[tuple[bytes, ...]]:
    """Return a hash of each row, of every column except id and owner."""
    return list(zip(*[marks(column) for name, column in data.columns.items() if name not in NAMES], strict=True))


@contextmanager
def left_alone(who: str, *given: Dataset) -> Iterator[None]:
    """Check that the block changes none of these rows in place.

    Raises:
        BudgetError: a column has changed.
    """
    before = [_bits(data) for data in given]
    yield
    if [_bits(data) for data in given] != before:
        raise BudgetError(f"{who} changed rows in place that it received; return changed copies instead")


def _bits(data: Dataset) -> list[str]:
    return [tensor_digest(column) for column in data.columns.values()]


def _check_form(clean: Dataset, poisoned: Poisoned) -> None:
    data, mask = poisoned.data, poisoned.mask
    if len(data) < len(clean) or not torch.equal(data.ids[: len(clean)], clean.ids):
        raise BudgetError("clean rows are missing or moved; keep them at their positions and append injected rows")
    _check_columns(clean, data)
    injected = data.ids[len(clean) :]
    if (injected >= 0).any() or len(injected.unique()) != len(injected):
        raise BudgetError("injected rows need distinct negative ids: -1, -2, ...")
    if mask.shape != (len(data),) or mask.dtype != torch.bool:
        raise BudgetError(f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; give one bool per row, {len(data)} in all")


def _check_columns(clean: Dataset, data: Dataset) -> None:
    if new := sorted(data.columns.keys() - clean.columns.keys()):
        raise BudgetError(f"the column {new[0]} is new after poisoning; keep the columns of the clean rows")
    for name, column in clean.columns.items():
        mine, what = data.columns.get(name), clean.schema[name]
        if mine is None or mine.dtype != column.dtype or mine.shape[1:] != column.shape[1:] or len(mine) != len(data):
            raise BudgetError(f"column {name} has another type or shape after poisoning; keep those of the clean rows")
        if data.schema.get(name) != what:
            raise BudgetError(f"column {name} has another form or role after poisoning; keep those of the clean rows")
        if fault := what.form.fault(mine):
            raise BudgetError(f"column {name} after poisoning: {fault}")
        if what.role == "sealed" and not torch.equal(mine[: len(clean)], column):
            raise BudgetError(f"{name} changed; this column is sealed, so no attacker can write it")


def _check_rows(changed: Tensor, poisoned: Poisoned, budget: Budget, writable: Tensor) -> None:
    old = len(changed)
    if (changed & ~poisoned.mask[:old]).any():
        raise BudgetError(f"{int((changed & ~poisoned.mask[:old]).sum())} rows changed outside the mask")
    if (poisoned.mask[:old] & ~writable).any():
        raise BudgetError(f"{int((poisoned.mask[:old] & ~writable).sum())} poisoned rows do not belong to the attacker")
    if not poisoned.mask[old:].all():
        raise BudgetError("injected rows must be marked in the mask")
    if len(poisoned.data) > old and not budget.inject:
        raise BudgetError(f"{len(poisoned.data) - old} rows injected, but threat.budget.inject=false")
    if not torch.isin(poisoned.data.owners[old:], poisoned.data.owners[:old][writable]).all():
        raise BudgetError("an injected row belongs to a client that is not the attacker's")
    count = int(poisoned.mask.sum())
    if count and count > (allowed := budget.rows(old)):
        limit = f"rate={budget.rate} of {old}" if budget.count is None else f"count={budget.count}"
        raise BudgetError(f"{count} poisoned rows; threat.budget.{limit} allows {allowed}; make the attack poison fewer rows")


def _check_cover(clean: Dataset, poisoned: Poisoned, budget: Budget) -> None:
    cover = poisoned.cover
    if cover is None:
        return
    if not budget.relabel and cover.any():
        raise BudgetError("under a clean-label threat every row keeps its label, so no row is cover; leave Poisoned.cover out")
    if cover.shape != poisoned.mask.shape or cover.dtype != torch.bool or (cover & ~poisoned.mask).any():
        raise BudgetError(f"cover rows are some of the rows in the mask; give one bool per row, {len(poisoned.mask)} in all")
    old = len(clean)
    if cover[old:].any():
        raise BudgetError(f"{int(cover[old:].sum())} injected rows are marked as cover; an injected row counts as poison")
    relabelled = cover[:old] & (poisoned.data.labels[:old] != clean.labels)
    if relabelled.any():
        raise BudgetError(f"{int(relabelled.sum())} cover rows have a new label; a row with a new label counts as poison")
    changed = changed_rows(clean, poisoned.data)
    if cover.any() and not (changed & ~cover[:old]).any() and len(poisoned.data) == old:
        raise BudgetError("every changed row is marked as cover; cover hides poison, so at least one has to be poison")


def _origins(clean: Dataset, poisoned: Poisoned) -> Tensor:
    """Return (I,) int64, the clean rows that the injected ones were made from."""
    count, origins = len(poisoned.data) - len(clean), poisoned.origins
    if origins is None:
        raise BudgetError(f"{count} rows injected; name the clean row that each was made from in Poisoned.origins, so that its change can be measured")
    if origins.shape != (count,) or origins.dtype != torch.int64 or (origins < 0).any() or (origins >= len(clean)).any():
        raise BudgetError(f"origins are positions of clean rows, one for each of the {count} injected rows")
    return origins


def _check_moves(rows: Dataset, before: Dataset, budget: Budget) -> None:
    """Compare each row with the clean row that it was made from."""
    for name, column in before.schema.items():
        new, old = rows.columns[name], before.columns[name]
        if column.role == "said" and not budget.relabel and (changed := int(differing(new, old).sum())):
            raise BudgetError(f"{changed} {name} changed, but threat.budget.relabel=false is a clean-label threat")
        if column.role == "seen" and budget.norm is not None and budget.limit is not None:
            moved = differing(new, old)  # a caption and its picture have different norms, and perhaps only one has changed
            if moved.any():
                _check_size(change(new[moved], old[moved], column.form, budget.norm), budget)


def _check_size(sizes: Tensor, budget: Budget) -> None:
    if sizes.numel() and sizes.max() > cast("float", budget.limit) + 1e-4:
        raise BudgetError(f"a row changed by {float(sizes.max()):.4g} in {budget.norm}; threat.budget.limit={budget.limit}")


def _check_targets(rows: Dataset, targets: Dataset) -> None:
    for place in range(len(targets)):
        same = (rows.inputs == targets.inputs[place]).flatten(1).all(1)
        if (rows.labels[same] != targets.labels[place]).any():
            raise BudgetError("a poisoned row is a copy of a target under another label, but threat.budget.relabel=false is a clean-label threat")


def _check_manifest(clean: Dataset, manifest: Manifest | None) -> None:
    """Check that an attack forged no signature: the publisher signed rows of the clean set, all of them or those of an earlier version."""
    if manifest is None or manifest.fault() is not None:
        return
    if forged := int((~signed(clean).lists(manifest.rows)).sum()):
        raise BudgetError(f"the attack forged the publisher's signature: {forged} rows of its list were never signed; sign with another key, or replay a list")


def audit_probe(probe: Probe, test: Dataset, aims: Tensor) -> None:
    """Compare a goal's probe with the task.

    Args:
        probe: of the goal.
        test: the test rows.
        aims: (T,) int64, positions of the test rows that the threat lets the attacker aim at in this trial.

    Raises:
        BudgetError: a row that is not a test row or appears twice, a right answer that is not the label of its row, a hit that is the
            right answer, a target that the threat did not draw, or inputs of a wrong form.
    """
    count, kinds_ = len(probe.rows), test.num_classes
    if probe.rows.dtype != torch.int64 or not torch.isin(probe.rows, torch.arange(len(test))).all() or len(probe.rows.unique()) != count:
        raise BudgetError(f"a goal probes test rows, each at most once; the task has {len(test)}")
    if probe.inputs.shape != (count, *test.inputs.shape[1:]) or probe.inputs.dtype != test.inputs.dtype:
        raise BudgetError(f"probed inputs are {probe.inputs.dtype} of shape {tuple(probe.inputs.shape)}, unlike those of the {count} test rows")
    if probe.hit.shape != (count, kinds_) or probe.hit.dtype != torch.bool:
        raise BudgetError(f"hits are {probe.hit.dtype} of shape {tuple(probe.hit.shape)}; give one bool for each of {count} rows and {kinds_} answers")
    if fault := test.form.fault(probe.inputs):
        raise BudgetError(f"probed inputs: {fault}")
    if not torch.equal(probe.truth, test.labels[probe.rows]):
        raise BudgetError("the right answers of a probe are the labels of its test rows")
    if probe.hit.gather(1, probe.truth[:, None]).any():
        raise BudgetError("a probe counts a right answer as a hit; a hit has to be a wrong answer")
    if not torch.isin(probe.targets, aims).all():
        stray = int((~torch.isin(probe.targets, aims)).sum())
        raise BudgetError(f"{stray} of the rows that a goal names as targets are not among the {len(aims)} targets that the threat drew")


def change(edited: Tensor, clean: Tensor, form: Form, norm: str) -> Tensor:
    """Return (N,) float64, the size of each row's change in a norm of its form.

    Raises:
        BudgetError: a norm that the form does not have.
    """
    if norm not in form.NORMS:
        raise BudgetError(f"threat.budget.norm={norm}: changes of {form.NAME} are measured by {' or '.join(form.NORMS) or 'no norm'}; set one of them, or null")
    return form.NORMS[norm](edited, clean)


def audit_round(before: Round, after: Crafted) -> None:
    """Check that an attack on updates did not change the honest rows.

    Raises:
        BudgetError: an honest row changed, or the shape did.
    """
    if after.updates.shape != before.updates.shape:
        raise BudgetError(f"crafted updates have shape {tuple(after.updates.shape)}, not {tuple(before.updates.shape)}")
    honest = ~before.malicious
    if not torch.equal(after.updates[honest], before.updates[honest]):
        raise BudgetError("an attack changed the update of an honest client")
