"""Losses, selections and choices of the defenses against wrong labels, with known answers."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.train.co_teaching import PEER, CoTeachingStep, exchanged
from defenses.train.early_stop import EarlyStopStep
from defenses.train.loss_trim import TrimStep, losses, smallest
from defenses.train.mixup import Mixed, MixupStep
from defenses.train.robust_loss import GeneralisedCrossEntropy, RobustLossStep, SymmetricCrossEntropy
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan
from poisonbench.core.rng import Key
from poisonbench.learn.objectives import CROSS_ENTROPY
from poisonbench.nets.small import Linear
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

SCORES = torch.randn(6, 4, generator=Key.root(0).torch(), dtype=torch.float64) * 2
BATCH = Batch(inputs=SCORES, labels=torch.tensor([0, 1, 2, 3, 0, 1]), ids=torch.arange(6))
PLAN = Plan(rows=10, epochs=4, steps=5, shape=(1,))
ROBUST = {"how": "gce", "q": 0.7, "truncation": 0.0, "truncate_from": 0.5, "alpha": 0.1, "beta": 1.0, "log_zero": -4.0}


def same(scores):
    """The network whose outputs are its inputs."""
    return scores


def chances(scores=SCORES):
    return scores.softmax(1).gather(1, BATCH.labels[:, None])[:, 0]


def gradient(objective, scores=SCORES):
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(objective(same, dataclasses.replace(BATCH, inputs=scores), 0.0).sum(), scores)[0]


def moment(module=None, epoch: int = 0, plan: Plan = PLAN) -> Moment:
    return Moment(module=nn.Linear(1, 1) if module is None else module, plan=plan, epoch=epoch, step=epoch * plan.steps, rng=Key.root(1))


# robust losses


def test_the_generalised_cross_entropy_is_the_cross_entropy_at_zero_and_the_absolute_error_at_one():
    cross_entropy = F.cross_entropy(SCORES, BATCH.labels, reduction="none")
    torch.testing.assert_close(GeneralisedCrossEntropy(q=1e-9, truncation=0)(same, BATCH, 0.1), cross_entropy, rtol=1e-7, atol=1e-7)
    error = (SCORES.softmax(1) - F.one_hot(BATCH.labels, 4)).abs().sum(1) / 2
    torch.testing.assert_close(GeneralisedCrossEntropy(q=1.0, truncation=0)(same, BATCH, 0.1), error)


def test_its_gradient_is_that_of_the_cross_entropy_times_a_power_of_the_probability():
    plain = SCORES.softmax(1) - F.one_hot(BATCH.labels, 4)
    torch.testing.assert_close(gradient(GeneralisedCrossEntropy(q=0.7, truncation=0)), chances()[:, None] ** 0.7 * plain)


def test_truncation_gives_rows_below_the_threshold_a_constant_loss_and_no_gradient():
    sorted_ = chances().sort().values
    k = float(sorted_[2] + sorted_[3]) / 2
    objective = GeneralisedCrossEntropy(q=0.7, truncation=k)
    below = chances() < k
    assert int(below.sum()) == 3
    found, whole = objective(same, BATCH, 0.0), GeneralisedCrossEntropy(q=0.7, truncation=0)(same, BATCH, 0.0)
    torch.testing.assert_close(found[below], torch.full((3,), (1 - k**0.7) / 0.7, dtype=torch.float64))
    assert torch.equal(found[~below], whole[~below])
    assert not gradient(objective)[below].any()
    assert gradient(objective)[~below].any(1).all()


def test_rows_are_pruned_from_the_stated_epoch_on():
    step = RobustLossStep(**{**ROBUST, "truncation": 0.5, "truncate_from": 0.5})
    assert [step.objective(CROSS_ENTROPY, moment(epoch=epoch)).truncation for epoch in range(4)] == [0.0, 0.0, 0.5, 0.5]


def test_the_symmetric_cross_entropy_adds_the_reverse_one():
    predicted, said = SCORES.softmax(1), F.one_hot(BATCH.labels, 4).double()
    reverse = -(predicted * torch.where(said > 0, said.log(), -4.0)).sum(1)
    expected = 0.1 * F.cross_entropy(SCORES, BATCH.labels, reduction="none") + 2.0 * reverse
    torch.testing.assert_close(SymmetricCrossEntropy(alpha=0.1, beta=2.0, log_zero=-4.0)(same, BATCH, 0.1), expected)


@pytest.mark.parametrize(
    "objective",
    [GeneralisedCrossEntropy(q=0.7, truncation=0), GeneralisedCrossEntropy(q=0.4, truncation=0.1), SymmetricCrossEntropy(alpha=0.1, beta=1, log_zero=-4)],
)
def test_the_gradients_of_robust_losses_are_those_of_their_values(objective):
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: objective(same, dataclasses.replace(BATCH, inputs=values), 0.0), scores)


@pytest.mark.parametrize("objective", [GeneralisedCrossEntropy(q=0.7, truncation=0), SymmetricCrossEntropy(alpha=0.1, beta=1, log_zero=-4)])
def test_a_row_with_an_impossible_label_has_a_finite_loss_and_gradient(objective):
    scores = torch.full((6, 4), 1e4).scatter(1, BATCH.labels[:, None], -1e4)
    assert objective(same, dataclasses.replace(BATCH, inputs=scores), 0.0).isfinite().all()
    assert gradient(objective, scores).isfinite().all()


@pytest.mark.parametrize(
    "fields", [{"how": "mae"}, {"q": 0.0}, {"q": 1.1}, {"truncation": 1.0}, {"truncate_from": 1.1}, {"alpha": -1.0}, {"beta": 0.0}, {"log_zero": 0.0}]
)
def test_robust_losses_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=r"defense\.train\.step"):
        RobustLossStep(**{**ROBUST, **fields})


# mixup


def trained(tiny, store, *steps):
    """Train the tiny victim with these steps, and return its weights as one vector and its facts."""
    line = Line(experiment=tiny(), store=store)
    learner = dataclasses.replace(line.experiment.learner, steps=steps)
    victim = learner.fit(line.experiment.task.train, line.combine(line.experiment.defense.aggregate), Key.root(0))
    return torch.cat([value.double().flatten() for value in victim.state().values()]), victim


def test_a_weight_of_one_is_plain_training_bit_for_bit(tiny, store):
    plain, mixed, other = (trained(tiny, store, *steps)[0] for steps in ((), (MixupStep(alpha=0.0),), (MixupStep(alpha=1.0),)))
    assert torch.equal(plain, mixed)
    assert not torch.equal(plain, other)


def test_rows_and_losses_are_mixed_with_the_same_weight():
    partners = torch.randperm(6, generator=Key.root(3).torch())
    found = Mixed(inner=CROSS_ENTROPY, weight=0.3, order=Key.root(3))(same, BATCH, 0.0)
    mixed = 0.3 * SCORES + 0.7 * SCORES[partners]
    soft = 0.3 * F.one_hot(BATCH.labels, 4) + 0.7 * F.one_hot(BATCH.labels[partners], 4)
    torch.testing.assert_close(found, (-(soft * mixed.log_softmax(1)).sum(1)).float())


def test_the_weight_is_drawn_from_the_beta_distribution():
    step = MixupStep(alpha=2.0)
    weights = torch.tensor([step.objective(CROSS_ENTROPY, dataclasses.replace(moment(), rng=Key.root(seed))).weight for seed in range(400)])
    assert abs(float(weights.mean()) - 0.5) < 0.05
    assert abs(float(weights.var()) - 0.05) < 0.012  # 1 / (4 (2 alpha + 1))


def test_a_negative_alpha_is_refused():
    with pytest.raises(ConfigError, match="0 or more"):
        MixupStep(alpha=-1.0)


# trimmed loss


class Table(nn.Module):
    """The model whose scores of row i are its parameter's row i; the input is the number of the row."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, inputs):
        return self.scores[inputs[:, 0].long()]


def planted(values: list[float]) -> tuple[Table, Dataset]:
    """Return a model and rows of label 0 whose cross-entropies are these values."""
    right = -torch.tensor(values)
    table = Table(torch.stack([right, (1 - right.exp()).log()], 1))
    return table, Dataset.of(torch.arange(len(values)).float()[:, None], torch.zeros(len(values), dtype=torch.int64), num_classes=2)


PLANTED = [0.5, 3.0, 0.1, 2.0, 0.9, 5.0, 0.2, 0.3, 4.0, 0.4]


def test_the_losses_of_all_rows_are_those_that_were_planted():
    torch.testing.assert_close(losses(*planted(PLANTED)), torch.tensor(PLANTED))


def test_the_rows_with_the_largest_losses_are_dropped_and_the_number_of_steps_stays():
    module, data = planted(PLANTED)
    batches = torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]).split(5)
    step, plan = TrimStep(expected_rate=0.4, warmup=0.5), Plan(rows=10, epochs=4, steps=2, shape=(1,))
    chosen = list(step.sample(batches, data, moment(module, epoch=2, plan=plan)))
    assert [batch.tolist() for batch in chosen] == [[9, 7, 6], [4, 2, 0]]
    assert module.training
    assert list(step.sample(batches, data, moment(module, epoch=1, plan=plan))) == list(batches)  # the start trains on all rows


def test_ties_go_to_the_earlier_rows():
    assert smallest(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2).tolist() == [True, True, False, False]


def test_a_trim_that_leaves_too_few_rows_for_the_steps_is_refused():
    TrimStep(expected_rate=0.5, warmup=0.2).check(nn.Linear(1, 1), Plan(rows=20, epochs=2, steps=5, shape=(1,)))
    with pytest.raises(ConfigError, match=r"raise learner\.batch_size"):
        TrimStep(expected_rate=0.55, warmup=0.2).check(nn.Linear(1, 1), Plan(rows=20, epochs=2, steps=5, shape=(1,)))


def test_the_rate_to_assume_is_that_of_the_threat(tiny):
    for name in ("loss_trim", "co_teaching"):
        experiment = tiny("attack=symmetric", f"defense={name}", "threat.budget.rate=0.3")
        assert experiment.defense.train.step.expected_rate == 0.3


@pytest.mark.parametrize("fields", [{"expected_rate": 1.0}, {"expected_rate": -0.1}, {"warmup": 0.0}, {"warmup": 1.5}])
def test_a_trim_out_of_range_is_refused(fields):
    with pytest.raises(ConfigError):
        TrimStep(**{"expected_rate": 0.1, "warmup": 0.2, **fields})


# co-teaching


def test_each_network_learns_from_the_rows_that_are_smallest_for_the_other():
    first, second = torch.tensor([1.0, 5.0, 2.0, 4.0]), torch.tensor([7.0, 1.0, 2.0, 9.0])
    # the first selects rows 0 and 2 for the second, the second rows 1 and 2 for the first
    assert exchanged(first, second, 0.5).tolist() == [7.0 * 2, 5.0 * 2, (2.0 + 2.0) * 2, 0.0]
    assert float(exchanged(first, second, 0.5).mean()) == (5 + 2) / 2 + (7 + 2) / 2


def test_no_gradient_flows_through_the_selection_and_a_batch_is_never_empty():
    first, second = (torch.tensor(values, requires_grad=True) for values in ([1.0, 5.0], [7.0, 1.0]))
    exchanged(first, second, 0.1).mean().backward()
    assert first.grad.tolist() == [0.0, 1.0]
    assert second.grad.tolist() == [1.0, 0.0]


def test_the_share_that_is_kept_falls_to_one_minus_the_rate():
    step, module = CoTeachingStep(expected_rate=0.4, ramp=2), nn.Linear(1, 1)
    module.add_module(PEER, nn.Linear(1, 1))
    shares = [step.objective(CROSS_ENTROPY, moment(module, epoch=epoch)).share for epoch in range(4)]
    assert shares == pytest.approx([1.0, 0.8, 0.6, 0.6])


def linear() -> nn.Module:
    return Linear(norm="none").build(Dataset.of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), num_classes=2))


def test_the_second_network_has_weights_of_its_own_that_the_first_ones_decide():
    none = Dataset.of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), num_classes=2)
    step, modules = CoTeachingStep(expected_rate=0.4, ramp=2), [linear(), linear(), linear()]
    modules[1].load_state_dict(modules[0].state_dict())
    for module in modules:
        step.begin(module, none)
    peers = [dict(module.named_parameters())[f"{PEER}.net.last.weight"] for module in modules]
    assert torch.equal(peers[0], peers[1])
    assert not torch.equal(peers[0], peers[2])
    assert not torch.equal(peers[0], modules[0].net.last.weight)
    names = list(modules[0].state_dict())
    assert not any(PEER in name for name in names)
    step.finish(modules[0], PLAN)
    assert list(modules[0].state_dict()) == names == list(linear().state_dict())
    assert not hasattr(modules[0], PEER)


def test_a_rate_of_zero_trains_the_first_network_as_plain_training_does(tiny, store):
    plain, taught = trained(tiny, store)[0], trained(tiny, store, CoTeachingStep(expected_rate=0.0, ramp=1))[0]
    torch.testing.assert_close(taught, plain)
    assert not torch.equal(trained(tiny, store, CoTeachingStep(expected_rate=0.3, ramp=1))[0], plain)


def test_kept_models_have_no_second_network(tiny, store):
    line = Line(experiment=tiny("learner.history_every=1"), store=store)
    learner = line.experiment.learner.with_step(CoTeachingStep(expected_rate=0.2, ramp=1))
    victim = learner.fit(line.experiment.task.train, line.combine(line.experiment.defense.aggregate), Key.root(0))
    assert all(state.keys() == victim.state().keys() for state in victim.history)


def test_a_net_without_layers_that_can_be_initialised_again_is_refused():
    with pytest.raises(ConfigError, match="reset_parameters"):
        CoTeachingStep(expected_rate=0.1, ramp=1).check(planted(PLANTED)[0], PLAN)


@pytest.mark.parametrize("fields", [{"expected_rate": 1.0}, {"ramp": 0.0}])
def test_co_teaching_out_of_range_is_refused(fields):
    with pytest.raises(ConfigError):
        CoTeachingStep(**{"expected_rate": 0.1, "ramp": 1, **fields})


# early stopping


def test_the_epoch_with_the_most_right_trusted_rows_is_kept_and_ties_go_to_the_earlier():
    module, data = planted([0.1, 0.1, 0.1, 0.1])
    step, right = EarlyStopStep(), [1, 3, 2, 3]
    step.begin(module, data)
    for epoch in range(5):
        if epoch:
            hit = (torch.arange(4) < right[epoch - 1]).float()
            module.scores.data = torch.stack([hit + epoch / 100, 0.5 + 0 * hit], 1)  # what an epoch of training leaves
        if epoch < 4:
            assert step.sample([], data, moment(module, epoch=epoch)) == []
    facts = step.finish(module, PLAN)
    assert facts == {"stopped_after": 2, "trusted_accuracy": 0.75}
    torch.testing.assert_close(module.scores[:, 0], torch.tensor([1.02, 1.02, 1.02, 0.02]))
    assert not hasattr(module, "_early_stop")


@dataclass(frozen=True, kw_only=True)
class Spoil(PlainStep):
    """Set all weights to zero at the start of the last epoch's steps, so that the last model is worse."""

    epoch: int

    def update(self, moment):
        if moment.epoch >= self.epoch:
            for weight in moment.module.parameters():
                weight.data.zero_()
                weight.grad.zero_()


def test_a_training_that_is_spoiled_at_the_end_returns_the_model_before(tiny, store):
    line = Line(experiment=tiny("task.trusted=0.2"), store=store)
    task, learner = line.experiment.task, line.experiment.learner
    combine, rng = line.combine(line.experiment.defense.aggregate), Key.root(0)
    spoiled = learner.with_step(Spoil(epoch=2)).fit(task.train, combine, rng)
    stopped = learner.with_step(Spoil(epoch=2)).with_step(EarlyStopStep()).fit(task.train, combine, rng)
    right = [int((victim.scores(task.trusted.inputs).argmax(1) == task.trusted.labels).sum()) for victim in (spoiled, stopped)]
    assert right[0] < right[1]
    assert stopped.facts["stopped_after"] <= 2
    assert stopped.facts["trusted_accuracy"] == right[1] / len(task.trusted)


def test_without_trusted_rows_early_stopping_is_refused_in_words(tiny, store):
    with pytest.raises(ConfigError, match=r"set task\.trusted"):
        run(tiny("defense=early_stop", "task.trusted=0"), store)


def test_steps_combine(tiny, store):
    steps = (
        RobustLossStep(**ROBUST),
        MixupStep(alpha=1.0),
        CoTeachingStep(expected_rate=0.2, ramp=2),
        TrimStep(expected_rate=0.2, warmup=0.5),
        EarlyStopStep(),
    )
    found, victim = trained(tiny, store, *steps)
    assert found.isfinite().all()
    assert math.isfinite(victim.facts["trusted_accuracy"])
