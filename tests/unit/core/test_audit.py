import dataclasses

import pytest
import torch

from poisonbench.core.attack import Crafted, Poisoned, Round
from poisonbench.core.audit import audit, audit_round, change, copies
from poisonbench.core.data import Dataset
from poisonbench.core.errors import BudgetError, ConfigError
from poisonbench.core.form import Choice, Column, Form
from poisonbench.core.goals import NoGoal
from poisonbench.core.threat import Budget
from poisonbench.forms.pixels import Pixels
from poisonbench.forms.tokens import Tokens

EVERYWHERE = torch.ones(10, dtype=torch.bool)


def clean() -> Dataset:
    return Dataset.of(torch.full((10, 1, 2, 2), 100, dtype=torch.uint8), torch.arange(10) % 2, num_classes=2)


def poisoned(data: Dataset, *rows: int) -> Poisoned:
    mask = torch.zeros(len(data), dtype=torch.bool)
    mask[list(rows)] = True
    return Poisoned(data=data, mask=mask, goal=NoGoal())


def bright(data: Dataset, *rows: int, by: int = 50) -> Dataset:
    chosen = torch.tensor(rows)
    return data.edit(chosen, inputs=data.inputs[chosen] + by)


def test_an_attack_within_its_budget_passes():
    data = clean()
    audit(data, poisoned(bright(data, 1, 3), 1, 3), Budget(rate=0.2), EVERYWHERE)
    audit(data, poisoned(data), Budget(rate=0.0), EVERYWHERE)


CHEATS = {
    "rows changed outside the mask": lambda d: (poisoned(bright(d, 1), 2), Budget(rate=0.5)),
    "3 poisoned rows; threat.budget.rate=0.2 of 10 allows 2": lambda d: (poisoned(bright(d, 1, 2, 3), 1, 2, 3), Budget(rate=0.2)),
    "count=1 allows 1": lambda d: (poisoned(bright(d, 1, 2), 1, 2), Budget(count=1)),
    "labels changed, but threat.budget.relabel=false": lambda d: (
        poisoned(d.edit(torch.tensor([1]), labels=torch.tensor([0])), 1),
        Budget(rate=0.5, relabel=False),
    ),
    "changed by 50 in linf": lambda d: (poisoned(bright(d, 1), 1), Budget(rate=0.5, norm="linf", limit=49.0)),
    "changed by 100 in l2": lambda d: (poisoned(bright(d, 1), 1), Budget(rate=0.5, norm="l2", limit=99.0)),
    "changes of numbers are measured by linf or l2": lambda d: (poisoned(bright(d, 1), 1), Budget(rate=0.5, norm="tokens", limit=3.0)),
    "missing or moved": lambda d: (poisoned(d.take(torch.arange(9))), Budget()),
    "out of range": lambda d: (poisoned(d.edit(torch.tensor([1]), labels=torch.tensor([2])), 1), Budget(rate=0.5)),
    "labels has another form or role": lambda d: (poisoned(with_classes(d, 3)), Budget()),
    "another type or shape": lambda d: (poisoned(d.with_columns({**d.columns, "inputs": d.inputs.float()})), Budget()),
    "owners changed": lambda d: (poisoned(d.edit(torch.tensor([1]), owners=torch.tensor([1])), 1), Budget(rate=0.5)),
    "rows injected, but": lambda d: (poisoned(injected(d), 10), Budget(rate=0.5)),
    "must be marked in the mask": lambda d: (poisoned(injected(d)), Budget(rate=0.5, inject=True)),
    "distinct negative ids": lambda d: (poisoned(d.append(d.take(torch.tensor([0]))), 10), Budget(rate=0.5, inject=True)),
    "column inputs after poisoning: row 1 holds a value that is not finite": lambda d: (poisoned(endless(d), 1), Budget(rate=0.5)),
    "2 classes allow 0 to 1": lambda d: (poisoned(d.edit(torch.tensor([1]), labels=torch.tensor([-1])), 1), Budget(rate=0.5)),
    "2 rows changed outside the mask": lambda d: (poisoned(bright(d, 1, 2, 3), 3, 4), Budget(rate=0.5)),
    "1 rows injected, but": lambda d: (poisoned(injected(d), 10), Budget(rate=0.5)),
    "inputs has another type or shape": lambda d: (poisoned(d.with_columns({**d.columns, "inputs": d.inputs.flatten(2)})), Budget()),
    "clean rows are missing": lambda d: (poisoned(d.take(torch.arange(10).flip(0))), Budget()),
    "the mask is": lambda d: (Poisoned(data=d, mask=torch.zeros(3, dtype=torch.bool), goal=NoGoal()), Budget()),
}


def with_classes(data: Dataset, count: int) -> Dataset:
    return dataclasses.replace(data, schema={**data.schema, "labels": Column(form=Choice(size=count), role="said")})


def endless(data: Dataset) -> Dataset:
    return data.edit(torch.tensor([1]), inputs=torch.full((1, 1, 2, 2), float("inf")))


def injected(data: Dataset) -> Dataset:
    return data.append(data.take(torch.tensor([0])).edit(torch.tensor([0]), ids=torch.tensor([-1])))


@pytest.mark.parametrize("says", CHEATS)
def test_every_way_to_cheat_is_caught(says):
    data = clean().with_columns({**clean().columns, "inputs": clean().inputs.float()}) if "finite" in says else clean()
    attempt, budget = CHEATS[says](data)
    with pytest.raises(BudgetError, match=says):
        audit(data, attempt, budget, EVERYWHERE)


def test_rows_that_the_attacker_does_not_own_are_out_of_bounds():
    data = clean()
    writable = torch.arange(10) < 5
    audit(data, poisoned(bright(data, 1), 1), Budget(rate=0.5), writable)
    with pytest.raises(BudgetError, match=r"^1 poisoned rows do not belong to the attacker"):
        audit(data, poisoned(bright(data, 1, 7), 1, 7), Budget(rate=0.5), writable)


def test_a_change_downwards_counts_like_one_upwards():
    before, after = torch.tensor([[10, 0]], dtype=torch.uint8), torch.tensor([[0, 3]], dtype=torch.uint8)
    assert change(after, before, Form(), "linf").item() == 10
    assert change(after, before, Form(), "l2").item() == pytest.approx(109**0.5)


def test_a_budget_never_allows_more_than_its_rate_and_never_selects_nothing_silently():
    assert Budget(rate=0.06).rows(600) == 36
    assert Budget(rate=0.05).rows(1365) == 68
    assert Budget(rate=0.0).rows(600) == 0
    assert Budget(count=5).rows(600) == 5
    with pytest.raises(ConfigError, match=r"selects none; give at least 0\.001667"):
        Budget(rate=0.001).rows(600)


@pytest.mark.parametrize(
    "fields", [{"rate": 1.5}, {"rate": -0.1}, {"rate": float("nan")}, {"count": -1}, {"clients": 2.0}, {"norm": "linf"}, {"norm": "l2", "limit": -1.0}]
)
def test_budgets_that_mean_nothing_are_refused(fields):
    with pytest.raises(ConfigError, match=r"threat\.budget"):
        Budget(**fields)


def test_the_update_of_an_honest_client_stays_equal():
    updates, malicious = torch.ones(3, 2), torch.tensor([True, False, False])
    round_ = Round(updates=updates, visible=malicious, malicious=malicious, state=torch.zeros(2), index=0, eta=1.0)
    audit_round(round_, Crafted(updates=torch.cat([-updates[:1], updates[1:]])))
    with pytest.raises(BudgetError, match="honest client"):
        audit_round(round_, Crafted(updates=-updates))
    with pytest.raises(BudgetError, match="shape"):
        audit_round(round_, Crafted(updates=updates[:2]))


def test_what_a_budget_just_allows_passes():
    data = clean()
    relabelled = data.edit(torch.tensor([1]), labels=torch.tensor([0]))
    audit(data, poisoned(bright(data, 1), 1), Budget(rate=0.1, relabel=False), EVERYWHERE)  # a clean label with another input
    audit(data, poisoned(relabelled, 1), Budget(rate=0.1, norm="linf", limit=0.0), EVERYWHERE)  # another label on the same input
    audit(data, poisoned(bright(data, 1, 2), 1, 2), Budget(rate=0.2, norm="linf", limit=50.0), EVERYWHERE)
    audit(data, poisoned(bright(data, 1, 2), 1, 2), Budget(rate=0.2, norm="l2", limit=100.0), EVERYWHERE)
    audit(data, poisoned(data), Budget(rate=0.2, norm="l2", limit=0.0), EVERYWHERE)
    audit(data, poisoned(injected(data), 10), Budget(rate=0.1, inject=True), EVERYWHERE)
    floating = data.with_columns({**data.columns, "inputs": data.inputs.float()})
    audit(floating, poisoned(bright(floating, 1), 1), Budget(rate=0.1), EVERYWHERE)


def test_every_row_has_a_change_of_its_own():
    before = torch.tensor([[1, 1], [5, 5], [0, 9]], dtype=torch.uint8)
    after = torch.tensor([[1, 1], [8, 1], [1, 9]], dtype=torch.uint8)
    assert change(after, before, Form(), "linf").tolist() == [0, 4, 1]
    assert change(after, before, Form(), "l2").tolist() == [0, 5, 1]
    assert {change(after, before, Form(), norm).dtype for norm in ("linf", "l2")} == {torch.float64}


def test_copies_are_the_rows_that_equal_a_clean_row_in_every_column_but_id_and_owner():
    inputs = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    clean = Dataset.of(inputs, torch.tensor([0, 0, 1]), num_classes=2)
    rows = Dataset.of(torch.tensor([[1.0, -0.0], [2.0, 0.0], [2.0, 1.0]]), torch.tensor([1, 1, 0]), num_classes=2)
    rows = rows.edit(torch.arange(3), ids=torch.tensor([-1, -2, -3]), owners=torch.tensor([5, 5, 5]))
    assert copies(clean, rows).tolist() == [True, False, False]  # -0 is 0; another label is no copy
    assert copies(clean, rows.take(torch.arange(0))).tolist() == []


def test_the_limit_counts_for_the_column_that_changed_and_each_form_has_its_own_norms():
    numbers = Dataset.of(torch.zeros(10, 3, dtype=torch.int64), torch.arange(10) % 2, num_classes=2, form=Tokens(vocabulary=("", "<unk>", "a", "b")))
    data = numbers.with_column("picture", torch.full((10, 1, 2, 2), 100, dtype=torch.uint8), Column(form=Pixels(), role="seen"))
    rows, budget = torch.tensor([3]), Budget(count=1, norm="linf", limit=16, relabel=False)
    moved = data.extra["picture"][rows]
    audit(data, poisoned(data.edit(rows, picture=moved + 16), 3), budget, EVERYWHERE)
    with pytest.raises(BudgetError, match="changed by 17 in linf"):
        audit(data, poisoned(data.edit(rows, picture=moved + 17), 3), budget, EVERYWHERE)
    with pytest.raises(BudgetError, match="changes of tokens are measured by tokens"):
        audit(data, poisoned(data.edit(rows, picture=moved + 1, inputs=data.inputs[rows] + 2), 3), budget, EVERYWHERE)
