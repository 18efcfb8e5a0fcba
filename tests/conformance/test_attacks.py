"""What every attack must hold to, by discovery."""

import pytest
import torch

from poisonbench.commands.compose import options
from poisonbench.pipeline import Line, run

ATTACKS = [name for name in options("attack") if name != "none"]


def strike(tiny, store, name: str, *words: str):
    experiment = tiny(f"attack={name}", *words)
    return experiment, Line(experiment=experiment, store=store).strike()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_budget_is_respected_and_used(tiny, store, name, rate):
    experiment, poisoned = strike(tiny, store, name, f"threat.budget.rate={rate}")  # the audit runs inside
    allowed = experiment.threat.budget.rows(len(experiment.task.train))
    assert 0 < poisoned.mask.sum() <= allowed


@pytest.mark.parametrize("name", ATTACKS)
def test_a_budget_of_zero_leaves_the_data_untouched(tiny, store, name):
    experiment, poisoned = strike(tiny, store, name, "threat.budget.rate=0")
    assert poisoned.data.digest == experiment.task.train.digest
    assert not poisoned.mask.any()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_mask_is_honest_and_clean_rows_are_untouched(tiny, store, name):
    experiment = tiny(f"attack={name}")
    clean = experiment.task.train
    before = {key: column.clone() for key, column in clean.columns.items()}
    poisoned = Line(experiment=experiment, store=store).strike()
    assert all(torch.equal(before[key], column) for key, column in clean.columns.items())
    changed = (poisoned.data.inputs != clean.inputs).flatten(1).any(1) | (poisoned.data.labels != clean.labels)
    assert torch.equal(changed, poisoned.mask)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_poison_and_another_seed_another(tiny, store, tmp_path, name):
    from poisonbench.store import Store

    _, first = strike(tiny, store, name)
    _, again = strike(tiny, Store(tmp_path / "another"), name)
    _, other = strike(tiny, store, name, "seed=1")
    assert first.data.digest == again.data.digest != other.data.digest


@pytest.mark.parametrize("name", ATTACKS)
def test_the_goal_is_reached_on_a_tiny_task(tiny, store, name):
    record = run(tiny(f"attack={name}", "threat.budget.rate=0.2"), store)
    assert record.undefended["asr"] > record.baseline["asr"] + 0.5
