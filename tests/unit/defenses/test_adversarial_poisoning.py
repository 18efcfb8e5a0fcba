"""Batches that are poisoned in training: the inner loss on a linear model, in closed form."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from defenses.train.adversarial_poisoning import PoisonedBatchStep, misalignment, weight_gradient, within
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run

FIELDS = {"limit": 16.0, "step_size": 0.4, "steps": 5, "share": 0.5}


class Linear(torch.nn.Module):
    """A linear model without a bias, which remembers its mode."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.randn(3, 16, generator=Key.root(0).torch(), dtype=torch.float64).to(dtype) / 500)

    def forward(self, inputs):
        self.mode = self.training
        return inputs.flatten(1) @ self.weights.T


def pictures(count: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (20 + 200 * torch.rand(count, 1, 4, 4, generator=Key.root(seed).torch(), dtype=torch.float64)).to(dtype)


def batch(count: int) -> Batch:
    return Batch(inputs=pictures(count), labels=torch.arange(count) % 3, ids=torch.arange(count))


def moment(module: torch.nn.Module) -> Moment:
    return Moment(module=module, plan=Plan(rows=9, epochs=1, steps=1, shape=(1, 4, 4)), epoch=0, step=0, rng=Key.root(5))


def test_the_gradient_of_a_linear_model_is_the_error_times_the_inputs():
    module, inputs, labels = Linear(torch.float64), pictures(4, dtype=torch.float64), torch.tensor([0, 1, 2, 2])
    errors = module(inputs).softmax(1) - F.one_hot(labels, 3)
    torch.testing.assert_close(weight_gradient(module, inputs, labels, graph=False), (errors.T @ inputs.flatten(1) / 4).detach().flatten())


def test_the_inner_loss_of_one_row_and_one_target_is_a_product_of_two_cosines():
    """The gradients are outer products e x', so their cosine is cos(e, e') cos(x, x')."""
    module, one, other = Linear(torch.float64), pictures(1, 1, torch.float64), pictures(1, 2, torch.float64)
    label, wrong = torch.tensor([1]), torch.tensor([2])
    own, wanted = weight_gradient(module, one, label, graph=False), weight_gradient(module, other, wrong, graph=False)
    errors = [module(inputs).softmax(1)[0] - F.one_hot(answer, 3)[0] for inputs, answer in ((one, label), (other, wrong))]
    by_hand = 1 - F.cosine_similarity(*errors, dim=0) * F.cosine_similarity(one.flatten(), other.flatten(), dim=0)
    torch.testing.assert_close(misalignment(own, wanted), by_hand)


def test_the_gradient_of_the_inner_loss_is_that_of_finite_differences():
    module, labels = Linear(torch.float64), torch.tensor([0, 1])
    wanted = weight_gradient(module, pictures(2, 3, torch.float64), torch.tensor([1, 1]), graph=False)
    inputs = pictures(2, 4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: misalignment(weight_gradient(module, moved, labels, graph=True), wanted), inputs)


def test_more_steps_come_closer_within_the_limit():
    module, clean, labels = Linear(), pictures(6), torch.zeros(6, dtype=torch.int64)
    wanted = weight_gradient(module, pictures(6, 3), torch.ones(6, dtype=torch.int64), graph=False)
    losses = []
    for steps in (1, 5, 50):
        moved = PoisonedBatchStep(**{**FIELDS, "steps": steps, "step_size": 0.1}).poisoned(module, clean, labels, wanted, Key.root(2))
        assert (moved - clean).abs().max() <= 16 + 1e-4
        losses.append(float(misalignment(weight_gradient(module, moved, labels, graph=False), wanted)))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[2] > 0.01


def test_the_first_rows_are_targets_and_stay_and_all_keep_their_labels():
    module = Linear()
    module.weights.grad = torch.ones_like(module.weights)
    told = PoisonedBatchStep(**{**FIELDS, "share": 0.34}).batch(batch(9), moment(module))
    moved = (told.inputs - batch(9).inputs).abs().flatten(1).amax(1)
    assert (moved > 0).tolist() == [False] * 6 + [True] * 3
    assert torch.equal(told.labels, batch(9).labels)
    assert (module.mode, module.training) == (False, True)
    assert torch.equal(module.weights.grad, torch.ones_like(module.weights))  # left for the optimiser


def test_the_wrong_label_is_the_most_frequent_one_of_the_inputs():
    """With labels 0, 0 | 2, 2, 1 the targets want label 2: five steps towards it, and the same as by hand."""
    module, rows, step = Linear(), batch(5), PoisonedBatchStep(**{**FIELDS, "share": 0.6})
    rows = dataclasses.replace(rows, labels=torch.tensor([0, 0, 2, 2, 1]))
    wanted = weight_gradient(module, rows.inputs[:2], torch.tensor([2, 2]), graph=False)
    by_hand = step.poisoned(module, rows.inputs[2:], rows.labels[2:], wanted, moment(module).rng.child("poison"))
    assert torch.equal(step.batch(rows, moment(module)).inputs[2:], by_hand)


def test_a_batch_of_one_row_stays():
    assert torch.equal(PoisonedBatchStep(**FIELDS).batch(batch(1), moment(Linear())).inputs, batch(1).inputs)


def test_noise_leaves_no_pixel_outside_the_range():
    assert within(torch.tensor([-30.0, 5.0, 9.0]), torch.tensor([3.0, 100.0, 250.0]), 8.0).tolist() == [-3.0, 5.0, 5.0]


def test_a_training_on_poisoned_batches_still_learns(tiny, store):
    assert run(tiny("defense=adversarial_poisoning"), store).metrics["c_acc"] > 0.8


def test_features_have_no_grey_levels(tiny, store):
    record = run(tiny("learner=transfer", "defense=adversarial_poisoning"), store)
    assert (record.status, "perturbs pixels" in record.reason) == ("skipped", True)


@pytest.mark.parametrize("fields", [{"limit": 0.0}, {"step_size": 0.0}, {"steps": 0}, {"share": 0.0}, {"share": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        PoisonedBatchStep(**{**FIELDS, **fields})
