"""EPIC: medoids by brute force, isolated rows by hand."""

import dataclasses

import pytest
import torch

from defenses.train import epic
from defenses.train.epic import LEFT, EpicStep, gradients, isolated, lonely, medoids
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run


def step(**fields) -> EpicStep:
    return EpicStep(**{"share": 0.4, "start": 1, "every": 2, "until": None, **fields})


def greedy(similarity: list[list[float]], count: int) -> list[int]:
    """Choose medoids with loops over all candidates and all rows."""
    picks, covered = [], [0.0] * len(similarity)
    for _ in range(count):
        gains = [
            -1.0 if place in picks else sum(max(row[place] - known, 0.0) for row, known in zip(similarity, covered, strict=True))
            for place in range(len(similarity))
        ]
        if max(gains) <= 0:
            break
        picks.append(gains.index(max(gains)))
        covered = [max(known, row[picks[-1]]) for row, known in zip(similarity, covered, strict=True)]
    return picks


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block", [1, 3, 64])
def test_lazy_medoids_are_those_of_brute_force(monkeypatch, seed, block):
    monkeypatch.setattr(epic, "BLOCK", block)
    places = torch.randint(0, 12, (50, 2), generator=Key.root(seed).torch()).double()
    distances = (places[:, None] - places).abs().sum(2)  # whole numbers, with many ties
    similarity = distances.max() - distances
    assert medoids(similarity, 20).tolist() == greedy(similarity.tolist(), 20)


def test_no_medoid_is_chosen_that_gains_nothing():
    assert medoids(torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 2.0]]), 3).tolist() == [0, 2]


def test_a_row_far_from_two_clusters_is_alone():
    """Three medoids: one for each cluster, and the far row, which no other row joins."""
    points = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [20.0]])
    assert lonely(points, 3).tolist() == [6]
    assert lonely(points, 2).tolist() == [6]
    assert lonely(points, 1).tolist() == []  # the only medoid is in the middle, and all rows join it


def test_equal_rows_are_not_alone():
    assert lonely(torch.zeros(4, 2), 2).tolist() == []


def test_classes_are_judged_apart_and_only_by_the_rows_that_are_left():
    points = torch.tensor([[0.0], [0.1], [9.0], [9.1], [0.0], [0.1], [0.2], [9.0]])
    labels, left = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.ones(8, dtype=torch.bool)
    assert isolated(points, labels, left, 0.5).nonzero()[:, 0].tolist() == [7]  # the two rows of the first class at 9 are not alone
    left[2] = False
    assert isolated(points, labels, left, 0.5).nonzero()[:, 0].tolist() == [3, 7]


def test_the_last_row_of_a_class_is_kept():
    assert not isolated(torch.zeros(3, 1), torch.tensor([0, 1, 1]), torch.tensor([True, True, False]), 0.5).any()


class Scores(torch.nn.Module):
    """A model whose scores are its inputs, and which remembers its mode."""

    def forward(self, inputs):
        self.mode = self.training
        return inputs


def test_gradients_are_probabilities_minus_labels_in_evaluation_mode():
    module, data = Scores(), Dataset.of(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1]), num_classes=2)
    torch.testing.assert_close(gradients(module, data), torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))
    assert (module.mode, module.training) == (False, True)
    moved = data.inputs.clone().requires_grad_()
    torch.nn.functional.cross_entropy(moved, data.labels, reduction="sum").backward()
    torch.testing.assert_close(gradients(module, data), moved.grad)


def sampled(step: EpicStep, module: torch.nn.Module, data: Dataset, epoch: int, steps: int = 2) -> list[list[int]]:
    plan = Plan(rows=len(data), epochs=9, steps=steps, shape=(2,))
    moment = Moment(module=module, plan=plan, epoch=epoch, step=epoch * steps, rng=Key.root(0))
    return [rows.tolist() for rows in step.sample(torch.arange(len(data)).tensor_split(steps), data, moment)]


def test_dropped_rows_never_return_and_the_number_of_steps_stays():
    far = Dataset.of(torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [0.1, 0.1], [-9.0, 9.0], [0.0, 0.1]]), torch.zeros(6, dtype=torch.int64), num_classes=2)
    module, chain = Scores(), step(share=0.3)
    chain.begin(module, far.take(torch.arange(0)))
    assert sampled(chain, module, far, 0) == [[0, 1, 2], [3, 4, 5]]  # before the first round
    assert sampled(chain, module, far, 1) == [[0, 1, 2], [3, 5]]
    equal = far.edit(torch.tensor([4]), inputs=torch.zeros(1, 2))
    assert sampled(chain, module, equal, 2) == [[0, 1, 2], [3, 5]]
    assert chain.finish(module, Plan(rows=6, epochs=9, steps=2, shape=(2,))) == {"epic_dropped": 1}
    assert not hasattr(module, LEFT)


def test_a_round_that_leaves_too_few_rows_drops_nothing():
    data = Dataset.of(torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [-9.0, 9.0]]), torch.zeros(4, dtype=torch.int64), num_classes=2)
    module, chain = Scores(), step()
    chain.begin(module, data)
    assert sampled(chain, module, data, 1) == [[0, 1], [2, 3]]


def test_rounds_come_every_so_many_epochs_until_the_last():
    chain = step(start=3, every=2, until=8)
    assert [epoch for epoch in range(12) if chain.due(epoch)] == [3, 5, 7]


def test_a_training_with_epic_drops_rows_and_still_learns(tiny, store):
    record = run(tiny("defense=epic", "defense.train.step.start=1"), store)
    assert 0 < record.facts["epic_dropped"] < 380
    assert record.metrics["c_acc"] > 0.8


def test_a_training_that_ends_before_the_first_round_is_refused(tiny, store):
    with pytest.raises(ConfigError, match="4 epochs"):
        run(tiny("defense=epic", "defense.train.step.start=4"), store)


@pytest.mark.parametrize("fields", [{"share": 0.0}, {"share": 1.0}, {"start": 0}, {"every": 0}, {"until": 0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(step(), **fields)
