"""Requirements on every defense, found by discovery."""

import dataclasses

import pytest
import torch

from poisonbench.config.build import targets
from poisonbench.config.compose import options, tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Server
from poisonbench.core.manifest import signed
from poisonbench.core.plugins import OWN, find_class
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.conftest import CHEAP, OWN_ATTACK, SEARCHING

DEFENSES = [name for name in options("defense") if name != "none"]
PLANS = {name: tree_of([f"defense={name}"])["defense"] for name in DEFENSES}
FILTERS = [name for name in DEFENSES if "sanitize" in PLANS[name]]
RULES = [name for name in DEFENSES if "aggregate" in PLANS[name] and name not in SEARCHING]


def reads(name: str) -> frozenset[str]:
    """Return the forms that every plugin of a defense can read; those of most are not limited."""
    classes = [find_class(path, OWN) for path in targets(PLANS[name])]
    limits = [kind.READS for kind in classes if isinstance(getattr(kind, "READS", None), frozenset)]  # that of transfer is a property
    return frozenset({"pixels", "numbers", "tokens"}).intersection(*limits)


def struck(name: str) -> tuple[str, ...]:
    """Return the words of an attack on rows that the defense can read."""
    if name in OWN_ATTACK:
        return OWN_ATTACK[name]
    if any(getattr(find_class(path, OWN), "COLUMNS", ()) for path in targets(PLANS[name])):
        return ("attack=preference_flip",)
    return ("attack=rag",) if name in SEARCHING else ("attack=backdoor",) if "pixels" in reads(name) else ("attack=text",)


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize("attack", ["none", "backdoor", "federated", "targeted", "text"])
def test_a_run_is_done_or_skipped_with_a_reason_and_repeats_itself(tiny, shared, second, name, attack):
    words = (f"attack={attack}", f"defense={name}", *CHEAP.get(name, ()))
    record = run(tiny(*words), shared)
    assert record.status == "done" or record.reason
    again = run(tiny(*words), second)
    assert record.result_digest == again.result_digest


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense_acts_under_some_learner(tiny, shared, name):
    attack = ("attack=federated",) if name in RULES else struck(name)
    assert run(tiny(*attack, f"defense={name}", *CHEAP.get(name, ())), shared).status == "done"


@pytest.mark.parametrize("name", FILTERS)
def test_a_verdict_covers_every_row_and_leaves_the_data_alone(tiny, store, name):
    experiment = tiny(*struck(name), f"defense={name}", *CHEAP.get(name, ()))
    line = Line(experiment=experiment, store=store)
    poisoned = line.strike()
    columns = {key: column.clone() for key, column in poisoned.data.columns.items()}
    verdict = line.judge(poisoned)
    assert all(torch.equal(columns[key], column) for key, column in poisoned.data.columns.items())
    assert verdict.keep.shape == verdict.suspicion.shape == (len(poisoned.data),)
    assert verdict.keep.dtype == torch.bool
    assert verdict.suspicion.dtype == torch.float32
    assert verdict.suspicion.isfinite().all()
    assert verdict.keep.any()


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("cover_rows", [False, True])
def test_a_record_reports_what_the_verdict_removed(tiny, shared, name, cover_rows):
    wanet = cover_rows and "pixels" in reads(name) and name not in {*SEARCHING, *OWN_ATTACK}
    attack = ("attack=wanet",) if wanet else struck(name)
    experiment = tiny(*attack, f"defense={name}", "threat.budget.rate=0.1", *CHEAP.get(name, ()))
    metrics, line = run(experiment, shared).metrics, Line(experiment=experiment, store=shared)
    poisoned = line.strike()
    removed, poison, cover = (set(rows.nonzero()[:, 0].tolist()) for rows in (~line.judge(poisoned).keep, poisoned.kinds.poison, poisoned.kinds.cover))
    assert bool(cover) == wanet
    assert metrics["removed"] == len(removed)
    assert metrics["tpr"] == len(removed & poison) / len(poison)
    assert metrics["fpr"] == len(removed - poison - cover) / (len(poisoned.data) - len(poison) - len(cover))
    assert metrics.get("cover_removed", 0) == len(removed & cover) / max(1, len(cover))


class Shifted:
    """A victim whose features are its inputs, moved by one and the same vector."""

    def __init__(self, shift: float) -> None:
        self.shift = shift * torch.arange(1.0, 13.0)

    def features(self, inputs, layer="penultimate"):
        return inputs + self.shift

    def scores(self, inputs, answers=None):
        return inputs[:, :4]


def judged_at(sanitize, shift: float):
    """Return the verdict on features of whole numbers, so that a shift by whole numbers rounds nothing."""
    rows = torch.randint(-9, 10, (400, 12), generator=Key.root(0).torch()).float()
    labels = torch.arange(400) % 4
    rows[labels == 2, 3] += 25 * (torch.arange(100) < 15)
    data = Dataset.of(rows, labels, num_classes=4)
    fixed, truth = Shifted(shift), (labels == 2) & (rows[:, 3] > 12)
    means = Means(trusted=data, fit=lambda data, draw=0: fixed, tune=lambda victim, data, epochs, draw=0: fixed, truth=truth, manifest=signed(data))
    return sanitize.judge(data, means, Key.root(0))


@pytest.mark.parametrize("name", [name for name in FILTERS if "numbers" in reads(name)])
@pytest.mark.parametrize("shift", [-1.0, 64.0, 4096.0])
def test_a_shift_of_all_features_changes_no_verdict(tiny, name, shift):
    sanitize = tiny(f"defense={name}").defense.sanitize
    here, there = judged_at(sanitize, 0.0), judged_at(sanitize, shift)
    torch.testing.assert_close(there.suspicion, here.suspicion, rtol=1e-6, atol=1e-6)
    assert torch.equal(there.keep, here.keep)


def test_the_uncentred_score_moves_with_a_shift(tiny):
    """What the test above would say of the form that most published code has."""
    sanitize = tiny("defense=spectral", "defense.sanitize.score=released_code").defense.sanitize
    here, there = judged_at(sanitize, 0.0), judged_at(sanitize, 64.0)
    assert (there.suspicion - here.suspicion).abs().max() > 1e3
    assert not torch.equal(there.keep, here.keep)


@pytest.mark.parametrize("name", FILTERS)
def test_the_order_of_the_rows_decides_nothing(tiny, store, name):
    experiment = tiny(*struck(name), f"defense={name}", *CHEAP.get(name, ()))
    line = Line(experiment=experiment, store=store)
    poisoned, rng = line.strike(), line.root.child("sanitize")
    means = line.means(poisoned, experiment.defense.sanitize)
    victim, order = means.fit(poisoned.data), torch.arange(len(poisoned.data)).flip(0)
    fixed = dataclasses.replace(means, fit=lambda data, draw=0: victim)
    turned = dataclasses.replace(fixed, truth=fixed.truth[order] if len(fixed.truth) else fixed.truth)
    verdict = experiment.defense.sanitize.judge(poisoned.data, fixed, rng)
    again = experiment.defense.sanitize.judge(poisoned.data.take(order), turned, rng)
    torch.testing.assert_close(again.suspicion, verdict.suspicion[order], rtol=1e-3, atol=1e-3)
    assert (again.keep == verdict.keep[order]).float().mean() > 0.99  # ties may fall either way


ALONE = [name for name in FILTERS if getattr(find_class(PLANS[name]["sanitize"]["_target_"], OWN), "LOOKS_AT", "all rows") == "each row alone"]


def moved(verdicts, data: Dataset) -> bool:
    """Tell whether rows that come, go or change move the verdict on any other row, by a bit."""
    mine, others = torch.arange(0, len(data), 2), torch.arange(1, len(data), 2)
    before = verdicts(data)
    copies = data.take(others).edit(torch.arange(len(others)), ids=-1 - torch.arange(len(others)))
    after = {
        "deleted": (data.take(mine), torch.arange(len(mine))),
        "inserted": (data.append(copies), mine),
        "relabelled": (data.edit(others, labels=(data.labels[others] + 1) % data.num_classes), mine),
        "edited": (data.edit(others, inputs=255 - data.inputs[others]), mine),
    }
    told = {name: (verdicts(rows), places) for name, (rows, places) in after.items()}
    return any(
        not (torch.equal(now.keep[places], before.keep[mine]) and torch.equal(now.suspicion[places], before.suspicion[mine])) for now, places in told.values()
    )


@pytest.mark.parametrize("name", [*ALONE, "spectral"])
def test_a_filter_that_says_so_looks_at_each_row_alone(tiny, store, name):
    """And one that does not is caught."""
    experiment = tiny(*struck(name), f"defense={name}", *CHEAP.get(name, ()))
    line = Line(experiment=experiment, store=store)
    poisoned, sanitize = line.strike(), experiment.defense.sanitize
    means = line.means(poisoned, sanitize)
    assert moved(lambda rows: sanitize.judge(rows, means, line.root), poisoned.data) == (name not in ALONE)


def test_there_is_a_filter_that_looks_at_each_row_alone():
    assert "trusted_outlier" in ALONE


def server(reference: torch.Tensor) -> Server:
    return Server(round=0, state=torch.zeros(len(reference)), malicious=2, reference=lambda: reference)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_blind_to_the_order_of_contributions_and_leaves_them_alone(tiny, name):
    rule = tiny(f"defense={name}").defense.aggregate
    rows = torch.randn(9, 40, generator=Key.root(0).torch())
    before = rows.clone()
    one = rule(rows, server(rows[0]))
    assert torch.equal(rows, before)
    assert one.shape == (40,)
    torch.testing.assert_close(one, rule(rows.flip(0), server(rows[0])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_agrees_with_unanimous_contributors(tiny, name):
    rule = tiny(f"defense={name}").defense.aggregate
    same = torch.linspace(-1, 1, 40)
    torch.testing.assert_close(rule(same.expand(9, 40), server(same)), same)


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("fltrust", "norm_clip")])
def test_a_rule_moves_with_a_shift_of_all_contributions(tiny, name):
    rule = tiny(f"defense={name}").defense.aggregate
    rows, shift = torch.randn(9, 40, generator=Key.root(0).torch()), torch.linspace(0, 5, 40)
    torch.testing.assert_close(rule(rows + shift, server(shift)), rule(rows, server(shift)) + shift, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in RULES if name != "norm_clip"])
def test_two_enormous_contributions_of_nine_cannot_carry_a_rule_away(tiny, name):
    rule = tiny(f"defense={name}", *(("defense.aggregate.steps=50",) if name == "geometric_median" else ())).defense.aggregate
    rows = torch.randn(9, 40, generator=Key.root(0).torch())
    rows[:2] = 1e6
    assert rule(rows, server(rows[2])).abs().max() < 10
