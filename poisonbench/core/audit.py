"""The referee: what an attack did is compared with what its threat allows. No attack can flatter itself.

Shape letters: N clean rows, N' rows after poisoning.
"""

from __future__ import annotations

import torch
from torch import Tensor

from poisonbench.core.attack import Crafted, Poisoned, Round
from poisonbench.core.data import Dataset
from poisonbench.core.errors import BudgetError
from poisonbench.core.threat import Budget


def audit(clean: Dataset, poisoned: Poisoned, budget: Budget, writable: Tensor) -> None:
    """Check a poisoned training set against the clean one.

    Args:
        clean: N rows as the task gave them.
        poisoned: what the attack returned; N' >= N rows.
        budget: what the threat allows.
        writable: (N,) bool, the rows that the attacker may change.

    Raises:
        BudgetError: the first rule that is broken.
    """
    _check_form(clean, poisoned)
    old = len(clean)
    changed = changed_rows(clean, poisoned.data)
    _check_rows(changed, poisoned, budget, writable)
    relabelled = poisoned.data.labels[:old] != clean.labels
    if not budget.relabel and relabelled.any():
        raise BudgetError(f"{int(relabelled.sum())} labels changed, but threat.budget.relabel=false is a clean-label threat")
    _check_norm(poisoned.data.inputs[:old][changed], clean.inputs[changed], budget)


def changed_rows(clean: Dataset, data: Dataset) -> Tensor:
    """Return (N,) bool, the clean rows that differ in any column of `data`, whose first N rows they are."""
    pairs = [(column, data.columns[name][: len(clean)]) for name, column in clean.columns.items()]
    return torch.stack([(one != other).reshape(len(clean), -1).any(1) for one, other in pairs]).any(0)


def _check_form(clean: Dataset, poisoned: Poisoned) -> None:
    data, mask = poisoned.data, poisoned.mask
    if data.num_classes != clean.num_classes:
        raise BudgetError(f"{data.num_classes} classes after poisoning, {clean.num_classes} before")
    if len(data) < len(clean) or not torch.equal(data.ids[: len(clean)], clean.ids):
        raise BudgetError("clean rows vanished or moved; edit rows in place and append what is injected")
    for name, column in clean.columns.items():
        mine = data.columns.get(name)
        if mine is None or mine.dtype != column.dtype or mine.shape[1:] != column.shape[1:] or len(mine) != len(data):
            raise BudgetError(f"column {name} has another type or shape after poisoning; poisons are quantised like clean rows")
    if data.inputs.dtype.is_floating_point and not data.inputs.isfinite().all():
        raise BudgetError("poisoned inputs hold values that are not finite")
    if data.labels.min() < 0 or data.labels.max() >= clean.num_classes:
        raise BudgetError(f"a poisoned label is out of range; {clean.num_classes} classes allow 0 to {clean.num_classes - 1}")
    if not torch.equal(data.owners[: len(clean)], clean.owners):
        raise BudgetError("owners changed; a row stays with the client that contributed it")
    injected = data.ids[len(clean) :]
    if (injected >= 0).any() or len(injected.unique()) != len(injected):
        raise BudgetError("injected rows need distinct negative ids: -1, -2, ...")
    if mask.shape != (len(data),) or mask.dtype != torch.bool:
        raise BudgetError(f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; give one bool a row, {len(data)} in all")


def _check_rows(changed: Tensor, poisoned: Poisoned, budget: Budget, writable: Tensor) -> None:
    old = len(changed)
    if (changed & ~poisoned.mask[:old]).any():
        raise BudgetError(f"{int((changed & ~poisoned.mask[:old]).sum())} rows changed outside the mask")
    if (poisoned.mask[:old] & ~writable).any():
        raise BudgetError(f"{int((poisoned.mask[:old] & ~writable).sum())} rows poisoned that the attacker does not own")
    if not poisoned.mask[old:].all():
        raise BudgetError("injected rows must be marked as poison")
    if len(poisoned.data) > old and not budget.inject:
        raise BudgetError(f"{len(poisoned.data) - old} rows injected, but threat.budget.inject=false")
    asked = int(poisoned.mask.sum())
    if asked and asked > (allowed := budget.rows(old)):
        limit = f"rate={budget.rate} of {old}" if budget.count is None else f"count={budget.count}"
        raise BudgetError(f"{asked} poisoned rows; threat.budget.{limit} allows {allowed}; lower what the attack asks for")


def _check_norm(edited: Tensor, clean: Tensor, budget: Budget) -> None:
    if budget.norm is None or budget.limit is None:
        return
    sizes = change(edited, clean, budget.norm)
    if sizes.numel() and sizes.max() > budget.limit + 1e-4:
        raise BudgetError(f"a row changed by {float(sizes.max()):.4g} in {budget.norm}; threat.budget.limit={budget.limit}")


def change(edited: Tensor, clean: Tensor, norm: str) -> Tensor:
    """Return (N,) float64, how far each row moved: the norms of `Budget`."""
    delta = (edited.to(torch.float64) - clean.to(torch.float64)).flatten(1)
    measures = {
        "linf": lambda: delta.abs().amax(1),
        "l2": lambda: delta.square().sum(1).sqrt(),
        "tokens": lambda: (delta != 0).sum(1).to(torch.float64),
    }
    return measures[norm]()


def audit_round(before: Round, after: Crafted) -> None:
    """Check that an attack on updates left the honest rows alone.

    Raises:
        BudgetError: honest rows differ, or the shape does.
    """
    if after.updates.shape != before.updates.shape:
        raise BudgetError(f"crafted updates have shape {tuple(after.updates.shape)}, not {tuple(before.updates.shape)}")
    honest = ~before.malicious
    if not torch.equal(after.updates[honest], before.updates[honest]):
        raise BudgetError("an attack changed the update of an honest client")
