"""What every defense must hold to, by discovery."""

import pytest
import torch

from poisonbench.commands.compose import options
from poisonbench.pipeline import Line, run

DEFENSES = [name for name in options("defense") if name != "none"]


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize("attack", ["none", "backdoor"])
def test_a_run_is_done_or_skipped_with_a_reason_and_repeats_itself(tiny, store, tmp_path, name, attack):
    from poisonbench.store import Store

    record = run(tiny(f"attack={attack}", f"defense={name}"), store)
    assert record.status == "done" or record.reason
    again = run(tiny(f"attack={attack}", f"defense={name}"), Store(tmp_path / "another"))
    assert record.result_digest == again.result_digest


@pytest.mark.parametrize("name", DEFENSES)
def test_a_verdict_covers_every_row_and_leaves_the_data_alone(tiny, store, name):
    experiment = tiny("attack=backdoor", f"defense={name}")
    line = Line(experiment=experiment, store=store)
    poisoned = line.strike()
    columns = {key: column.clone() for key, column in poisoned.data.columns.items()}
    verdict = line.judge(poisoned)
    assert all(torch.equal(columns[key], column) for key, column in poisoned.data.columns.items())
    if verdict is not None:
        assert verdict.keep.shape == verdict.suspicion.shape == (len(poisoned.data),)
        assert verdict.keep.dtype == torch.bool
        assert verdict.suspicion.dtype == torch.float32
        assert verdict.suspicion.isfinite().all()
        assert verdict.keep.any()


@pytest.mark.parametrize("name", DEFENSES)
def test_the_order_of_the_rows_decides_nothing(tiny, store, name):
    experiment = tiny("attack=backdoor", f"defense={name}")
    line = Line(experiment=experiment, store=store)
    poisoned, rng = line.strike(), line.root.child("sanitize")
    means = line.means(poisoned, experiment.defense.sanitize)
    victim = means.fit(poisoned.data)
    import dataclasses

    fixed = dataclasses.replace(means, fit=lambda data, draw=0: victim)
    verdict = experiment.defense.sanitize.judge(poisoned.data, fixed, rng)
    if verdict is None:
        return
    order = torch.arange(len(poisoned.data)).flip(0)
    turned = experiment.defense.sanitize.judge(poisoned.data.take(order), fixed, rng)
    torch.testing.assert_close(turned.suspicion, verdict.suspicion[order], rtol=1e-3, atol=1e-3)
    assert (turned.keep == verdict.keep[order]).float().mean() > 0.99  # ties may fall either way
