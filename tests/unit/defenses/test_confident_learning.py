"""The confident joint, worked by hand."""

import pytest
import torch

from defenses.sanitize.confident_learning import ConfidentLearning, by_class, by_noise_rate, calibrated, dealt, guesses, surest
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run

# thresholds: class 0 (0.9 + 0.9 + 0.5 + 0.1) / 4 = 0.6, class 1 (0.9 + 0.7 + 0.6 + 0.2) / 4 = 0.6
FIRST = torch.tensor([0.9, 0.9, 0.5, 0.1, 0.1, 0.3, 0.4, 0.8], dtype=torch.float64)
CHANCES = torch.stack([FIRST, 1 - FIRST], 1)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
# one class of three rows: a, b, c
THREE = torch.tensor([[0.3, 0.4, 0.3], [0.2, 0.1, 0.7], [0.05, 0.5, 0.45]], dtype=torch.float64)
JOINT = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


def test_a_row_is_guessed_to_be_of_a_class_whose_threshold_it_reaches():
    assert guesses(CHANCES, LABELS).tolist() == [0, 0, -1, 1, 1, 1, 1, 0]


def test_among_several_thresholds_the_largest_probability_decides():
    # thresholds 0.3, 0.25 and none, since no row is labelled 2: row 0 reaches both
    chances = torch.tensor([[0.3, 0.6, 0.1], [0.15, 0.25, 0.6]], dtype=torch.float64)
    assert guesses(chances, torch.tensor([0, 1])).tolist() == [1, 1]


def test_the_joint_is_scaled_to_the_rows_of_each_label():
    joint = calibrated(guesses(CHANCES, LABELS), LABELS, 2)
    torch.testing.assert_close(joint, torch.tensor([[4 * 2 / 3, 4 * 1 / 3], [1.0, 3.0]], dtype=torch.float64))


def test_a_label_without_a_counted_row_is_taken_to_be_right():
    assert calibrated(torch.tensor([-1, -1, 0]), torch.tensor([1, 1, 0]), 2).tolist() == [[1.0, 0.0], [0.0, 2.0]]


def test_by_class_removes_the_least_probable_labels():
    assert by_class(JOINT, THREE, torch.zeros(3, dtype=torch.int64)).tolist() == [False, True, True]


def test_by_noise_rate_removes_the_largest_margins_of_each_pair():
    assert by_noise_rate(JOINT, THREE, torch.zeros(3, dtype=torch.int64)).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("prune", "wrong"),
    [("by_class", [3, 7]), ("by_noise_rate", [3, 7]), ("both", [3, 7]), ("confident_joint", [3, 7])],
)
def test_all_rules_find_the_two_wrong_labels_of_the_example(prune, wrong):
    assert ConfidentLearning(folds=2, prune=prune).wrong(CHANCES, LABELS).nonzero()[:, 0].tolist() == wrong


def test_both_removes_what_both_rules_remove(monkeypatch):
    labels = torch.zeros(3, dtype=torch.int64)
    monkeypatch.setattr("defenses.sanitize.confident_learning.calibrated", lambda counted, labels, kinds: JOINT)
    assert ConfidentLearning(folds=2, prune="both").wrong(THREE, labels).tolist() == [False, False, True]


def test_the_surest_row_of_each_class_stays():
    assert surest(CHANCES, LABELS).nonzero()[:, 0].tolist() == [0, 4]


class Seen:
    """A victim that gives the rows it trained on a score of their own."""

    def __init__(self, data: Dataset, seen: list) -> None:
        self.trained = set(data.ids.tolist())
        seen.append(data)

    def scores(self, inputs):
        assert not self.trained & set(inputs[:, 0].int().tolist())
        return torch.zeros(len(inputs), 3)


def test_every_row_is_judged_by_a_model_that_did_not_see_it_and_folds_share_the_labels():
    labels = torch.tensor([0] * 20 + [1] * 8 + [2] * 2)
    data, seen = Dataset.of(torch.arange(30).float()[:, None], labels, num_classes=3), []
    means = Means(trusted=data.take(labels < 0), fit=lambda rows, draw=0: Seen(rows, seen), tune=None, truth=labels < 0)
    verdict = ConfidentLearning(folds=4, prune="both").judge(data, means, Key.root(0))
    assert [rows.labels.bincount().tolist()[:2] for rows in seen] == [[15, 6]] * 4
    assert sorted(len(rows) for rows in seen) == [22, 22, 23, 23]
    torch.testing.assert_close(verdict.suspicion, torch.full((30,), 2 / 3))
    assert verdict.keep.all()  # all classes tie, so every row is guessed to be of its label


def test_a_row_keeps_its_fold_in_another_order():
    data = Dataset.of(torch.arange(30).float()[:, None], torch.arange(30) % 3, num_classes=3)
    order = torch.arange(30).flip(0)
    assert torch.equal(dealt(data.take(order), Key.root(0)), dealt(data, Key.root(0))[order])


def test_on_noisy_blobs_it_finds_most_wrong_labels_and_few_right_ones(tiny, store):
    metrics = run(tiny("attack=symmetric", "defense=confident_learning", "threat.budget.rate=0.2"), store).metrics
    assert metrics["tpr"] > 0.9
    assert metrics["fpr"] < 0.1


@pytest.mark.parametrize("fields", [{"folds": 1}, {"prune": "all"}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError):
        ConfidentLearning(**{"folds": 4, "prune": "both", **fields})
