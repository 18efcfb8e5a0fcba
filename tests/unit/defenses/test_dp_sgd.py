import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from defenses.train.dp_sgd import HOOKS, PrivateStep, clipped_sum, noise_for, spent_epsilon
from defenses.train.per_example import RowGradients
from poisonbench import own_task
from poisonbench.config.compose import tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

STEP = {"epsilon": 3.0, "delta": 1e-5, "max_grad_norm": 1.0, "accountant": "rdp", "sampling": "poisson"}
PLAN = Plan(rows=1000, epochs=10, steps=20, shape=(3,))
NO_ROWS = Dataset.of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), num_classes=2)


def first(plan: Plan, rng: Key) -> Moment:
    """The first step of an epoch."""
    return Moment(module=nn.Linear(1, 1), plan=plan, epoch=0, step=0, rng=rng)


def test_rows_are_clipped_to_a_joint_norm_and_summed():
    first, second = torch.tensor([[3.0], [0.3]]), torch.tensor([[[4.0]], [[0.4]]])
    one, other = clipped_sum([RowGradients(part, part.flatten(1).square().sum(1)) for part in (first, second)], 1.0)
    torch.testing.assert_close(one, torch.tensor([0.6 + 0.3]))
    torch.testing.assert_close(other, torch.tensor([[0.8 + 0.4]]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_per_example_gradients_equal_a_loop_over_rows(layout):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        module = nn.Sequential(first, nn.GroupNorm(2, 4), nn.ReLU(), second, nn.Flatten(), nn.Linear(64, 3)).to(memory_format=layout)
        inputs, labels = torch.randn(5, 2, 4, 4).contiguous(memory_format=layout), torch.tensor([0, 1, 2, 0, 1])
    step = PrivateStep(**STEP)
    step.begin(module, NO_ROWS)
    nn.functional.cross_entropy(module(inputs.clone().requires_grad_()), labels).backward()
    found = [own.rows.clone() for own in getattr(module, HOOKS).gradients()]
    step.finish(module, PLAN)
    assert not hasattr(module, HOOKS)
    assert not any(layer._forward_pre_hooks or "forward" in vars(layer) for layer in module.modules())
    for row in range(5):
        module.zero_grad()
        nn.functional.cross_entropy(module(inputs[row : row + 1]), labels[row : row + 1]).backward()
        for weight, grad_sample in zip(module.parameters(), found, strict=True):
            torch.testing.assert_close(grad_sample[row], weight.grad, rtol=1e-4, atol=1e-5)


def test_samples_are_poisson():
    step = PrivateStep(**STEP)
    sizes = [len(rows) for epoch in range(50) for rows in step.sample([torch.arange(PLAN.rows)], NO_ROWS, first(PLAN, Key.root(0).child(str(epoch))))]
    assert len(sizes) == 1000
    mean, variance = torch.tensor(sizes).double().mean(), torch.tensor(sizes).double().var()
    assert mean == pytest.approx(50, abs=1)
    assert variance == pytest.approx(50 * 0.95, rel=0.15)  # fixed batches would have none


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
def test_two_accountants_agree_and_neither_spends_more_than_asked(epsilon):
    noise = noise_for("rdp", epsilon, 1e-5, PLAN)
    rdp = spent_epsilon("rdp", noise, 1 / 20, 200, 1e-5)
    prv = spent_epsilon("prv", noise, 1 / 20, 200, 1e-5)
    assert epsilon - 0.011 <= rdp <= epsilon + 1e-9
    assert 0.75 * rdp < prv <= rdp + 0.02  # numerical composition is the tighter one


def test_the_gaussian_mechanism_alone_costs_what_its_closed_form_says():
    """One full-batch step: the exact epsilon of Balle and Wang, ICML 2018, Theorem 8, found by bisection."""
    from statistics import NormalDist

    noise, delta, cdf = 2.0, 1e-5, NormalDist().cdf
    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        spent = cdf(0.5 / noise - middle * noise) - torch.tensor(middle).exp().item() * cdf(-0.5 / noise - middle * noise)
        low, high = (middle, high) if spent > delta else (low, middle)
    assert spent_epsilon("prv", noise, 1.0, 1, delta) == pytest.approx(high, abs=0.03)
    assert high <= spent_epsilon("rdp", noise, 1.0, 1, delta) < 1.2 * high


def test_a_run_reports_what_it_spent(tiny, store):
    record = run(tiny("defense=dp_sgd", "defense.train.step.delta=1e-3"), store)
    assert record.facts["epsilon"] <= 3.0
    assert record.facts["sampling_rate"] == pytest.approx(1 / 12)
    assert {"delta", "noise_multiplier", "accountant", "adjacency", "max_grad_norm"} <= record.facts.keys()


def test_more_noise_than_signal_learns_nothing(tiny, store):
    record = run(tiny("defense=dp_sgd", "defense.train.step.epsilon=0.01", "defense.train.step.delta=1e-3"), store)
    assert record.undefended["c_acc"] > 0.9
    assert record.metrics["c_acc"] < 0.6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("net.norm=batch",), r"set net\.norm=group"),
        (("defense.train.step.delta=0.01",), "1 / N"),
        (("defense.train.step.epsilon=0",), "above 0"),
        (("defense.train.step.sampling=shuffle",), "Poisson"),
    ],
)
def test_what_breaks_the_promise_is_refused_with_the_fix(tiny, store, words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        run(tiny("defense=dp_sgd", *words), store)
    assert not store.visits


def test_an_empty_sample_still_adds_noise(tiny, store):
    words = ("defense=dp_sgd", "defense.train.step.delta=1e-3", "learner.batch_size=1", "task.rows=12", "learner.epochs=1")
    experiment = tiny(*words)
    drawn = experiment.defense.train.step.sample([torch.arange(11)], NO_ROWS, first(Plan(rows=11, epochs=1, steps=11, shape=(1, 8, 8)), Key.root(0)))
    assert min(map(len, drawn)) == 0
    assert run(experiment, store).status == "done"
    module, step = nn.Linear(3, 2), PrivateStep(**STEP)
    step.begin(module, NO_ROWS)
    nn.functional.cross_entropy(module(torch.zeros(0, 3, requires_grad=True)), torch.zeros(0, dtype=torch.int64), reduction="sum").backward()
    step.update(Moment(module=module, plan=PLAN, epoch=0, step=0, rng=Key.root(0)))
    assert all(weight.grad.abs().sum() > 0 for weight in module.parameters())


def test_a_scale_is_a_larger_learning_rate_of_the_private_step(tiny, store):
    words = ["attack=none", "defense=dp_sgd", "defense.train.step.delta=1e-3", "net.norm=group", "learner.weight_decay=0"]
    states = []
    for more in (["learner.lr=0.1", "defense.train.step.scale=1"], ["learner.lr=0.02", "defense.train.step.scale=5"]):
        experiment = tiny(*words, *more)
        line = Line(experiment=experiment, store=store)
        states.append(line.fit(line.defended, experiment.task.train, line.honest).state())
    assert all(torch.allclose(value, states[1][name], atol=1e-4, rtol=1e-3) for name, value in states[0].items())


def test_a_step_shows_the_sampled_noised_sum_that_the_accountant_assumes():
    """Four rows whose clipped gradients are 1, 0.5, 1 and 1, each drawn with chance 1 / 4: the sum is one of eight numbers, plus noise."""
    rows, plan = torch.tensor([[5.0], [0.5], [2.0], [1.0]]), Plan(rows=4, epochs=1, steps=4, shape=(1,))
    step, module, shown = PrivateStep(**{**STEP, "delta": 1e-3}), nn.Linear(1, 1, bias=False), []
    step.begin(module, NO_ROWS)
    for epoch in range(500):
        rng = Key.root(0).child(str(epoch))
        for number, drawn in enumerate(step.sample([torch.arange(4)], NO_ROWS, first(plan, rng))):
            module.zero_grad()
            (module(rows[drawn].requires_grad_()).sum() / max(1, len(drawn))).backward()
            step.update(Moment(module=module, plan=plan, epoch=0, step=number, rng=rng.child(str(number))))
            shown.append(module.weight.grad.item() * plan.rows / plan.steps)
    facts = step.finish(module, plan)

    def agrees(rate: float, noise: float) -> float:
        sums, chances = np.zeros(1), np.ones(1)
        for part in (1.0, 0.5, 1.0, 1.0):
            sums, chances = np.concatenate([sums, sums + part]), np.concatenate([(1 - rate) * chances, rate * chances])
        return stats.kstest(shown, lambda edges: stats.norm.cdf((edges[:, None] - sums) / noise) @ chances).pvalue

    rate, noise = facts["sampling_rate"], facts["noise_multiplier"]
    assert agrees(rate, noise) > 0.01
    assert max(agrees(rate, 0.8 * noise), agrees(0.8 * rate, noise), agrees(1.2 * rate, noise)) < 1e-3, "so many draws tell less noise and other rates"


PRIVATE = ("defense=dp_sgd", "defense.train.step.delta=1e-3")


def grown(line: Line, how: str) -> Dataset:
    """The rows after one is put in, taken out or made huge."""
    data, row = line.experiment.task.train, torch.arange(1)
    return {
        "inserted": data.append(data.take(row).edit(row, ids=-1 - row)),
        "deleted": data.take(torch.arange(1, len(data))),
        "white": data.edit(row, inputs=torch.full_like(data.inputs[:1], 255)),
    }[how]


@pytest.mark.parametrize("how", ["inserted", "deleted", "white"])
def test_no_figure_of_the_training_follows_the_private_rows(tiny, store, how):
    """A row more would be a step more: 385 rows in batches of 32 take 13 steps, 384 take 12."""
    experiment = tiny(*PRIVATE, "task.rows=404", "task.trusted=0.05", "learner.epochs=1")
    line = Line(experiment=experiment, store=store)
    assert len(experiment.task.train) == 384
    one, other = (line.fit(line.defended, rows, line.honest) for rows in (experiment.task.train, grown(line, how)))
    assert one.facts == other.facts
    assert (one.facts["public_rows"], one.facts["sampling_rate"], one.facts["statistics"]) == (384, 1 / 12, "constants of the form")
    assert all(torch.equal(one.state()[name], other.state()[name]) for name in one.state() if name.startswith("normalized."))
    assert one.state()["normalized.mean"].tolist() == [127.5]
    assert one.state()["normalized.std"].tolist() == [127.5]


def test_public_rows_give_the_statistics_where_there_are_some(tiny, store):
    experiment = tiny(*PRIVATE, "task.public=0.2", "learner.epochs=1")
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.defended, experiment.task.train, line.honest)
    mean = experiment.task.public.inputs.double().mean()
    assert float(victim.state()["normalized.mean"]) == pytest.approx(float(mean))
    assert victim.facts["statistics"] == "public rows"
    plain = line.fit(line.learner, experiment.task.train, line.honest)
    assert float(plain.state()["normalized.mean"]) == pytest.approx(float(experiment.task.train.inputs.double().mean()))


def floats(public: float):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    inputs = torch.randn(240, 5, generator=generator) + 3 * torch.nn.functional.one_hot(labels, 5)
    return own_task(train=(inputs[:200], labels[:200]), test=(inputs[200:], labels[200:]), public=public)


FLOAT_NET = ("net=linear", "net.norm=none", "learner.epochs=1", "learner.batch_size=32")


def assembled(store, task, *words: str):
    return assemble(tree_of(["threads=1", *FLOAT_NET, *words]), store, task=task)


def test_features_without_public_rows_are_refused_before_any_compute(store):
    with pytest.raises(ConfigError, match=r"cannot compute input statistics from private rows, .*; set task\.public=0\.1"):
        run(assembled(store, floats(0.0), *PRIVATE), store)
    assert not store.visits


@pytest.mark.parametrize("defense", [("defense=dp_sgd",), ("defense=dp_ensemble", "defense.train.members=2")])
def test_one_huge_row_of_features_moves_no_statistic(store, defense):
    experiment = assembled(store, floats(0.2), *defense, "defense.train.step.delta=1e-3")
    line, data = Line(experiment=experiment, store=store), experiment.task.train
    huge = data.edit(torch.arange(1), inputs=torch.full((1, 5), 1e6))
    states = [line.fit(line.defended, rows, line.honest).state() for rows in (data, huge)]
    measured = [name for name in states[0] if "normalized." in name]
    assert measured
    assert all(torch.equal(states[0][name], states[1][name]) for name in measured)


def test_a_net_that_sets_its_first_layer_by_the_rows_needs_public_ones(tiny, store):
    words = ("net=fast", "net.norm=group", "net.widths=[8]", *PRIVATE, "learner.epochs=1")
    experiment = assemble(tree_of(["task=blobs", "threads=1", "learner.batch_size=64", *words]), store)
    with pytest.raises(ConfigError, match=r"cannot set the first layer of this net from private rows; set task\.public=0\.1"):
        run(experiment, store)
    assert not store.visits
    public = assemble(tree_of(["task=blobs", "task.public=0.2", "threads=1", "learner.batch_size=64", *words]), store)
    line = Line(experiment=public, store=store)
    data = public.task.train
    states = [line.fit(line.defended, rows, line.honest).state() for rows in (data, data.take(torch.arange(1, len(data))))]
    (first,) = [name for name in states[0] if name.endswith("blocks.0.weight")]
    assert torch.equal(states[0][first], states[1][first])


def test_a_head_on_public_features_measures_those(tiny, store):
    experiment = tiny("learner=transfer", "net.norm=group", "defense=dp_sgd", "defense.train.step.delta=1e-3")
    record = run(experiment, store)
    assert record.status == "done"
    assert record.facts["statistics"] == "public rows"
    assert record.facts["public_rows"] == record.counts["train"]


def test_a_repair_takes_nothing_from_epsilon(tiny, store):
    alone, mended = (
        run(tiny("attack=backdoor", f"defense={names}", "net.norm=group", "defense.train.step.delta=1e-3"), store) for names in ("dp_sgd", "[dp_sgd,fine_tune]")
    )
    told = ("epsilon", "delta", "adjacency", "noise_multiplier", "public_rows", "sampling_rate")
    assert {name: mended.facts[name] for name in told} == {name: alone.facts[name] for name in told}
    assert mended.facts["epochs"] != alone.facts["epochs"]


def test_a_repair_that_trains_by_the_private_recipe_does_not_report_its_own_epsilon(tiny, store):
    told = []
    for defense in ("none", "fine_tune"):
        experiment = tiny("attack=backdoor", f"defense={defense}", "net.norm=group")
        private = dataclasses.replace(experiment, learner=experiment.learner.with_step(PrivateStep(**{**STEP, "delta": 1e-3})))
        told.append(run(private, store).facts)
    assert told[0] == told[1]


def test_a_filter_that_looks_at_each_row_alone_leaves_the_public_figures_alone(tiny, store):
    record = run(tiny("attack=backdoor", "defense=[trusted_outlier,dp_sgd]", "net.norm=group", "defense.train.step.delta=1e-3"), store)
    assert record.metrics["removed"] > 0
    assert record.facts["public_rows"] == record.counts["train"]
    assert record.facts["sampling_rate"] == 1 / 12


def test_under_ablations_public_rows_are_measured_with_their_complements(tiny, store):
    experiment = tiny(
        "defense=randomized_ablation", "net.norm=group", "task.public=0.2", "learner.epochs=1", "defense.train.draws=5", "defense.certify.draws=10"
    )
    private = dataclasses.replace(experiment, learner=experiment.learner.with_step(PrivateStep(**{**STEP, "delta": 1e-3})))
    line, mean = Line(experiment=private, store=store), float(private.task.public.inputs.double().mean())
    victim = line.fit(line.defended, private.task.train, line.honest)
    assert victim.state()["normalized.mean"].tolist() == pytest.approx([mean, 255 - mean])
