"""The confident joint, worked by hand."""

import pytest
import torch

from defenses.sanitize.confident_learning import ConfidentLearning, by_class, by_noise_rate, calibrated, dealt, guesses, headed, own, rivals, rounded, surest
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


def test_a_row_of_the_joint_is_rounded_to_its_own_sum():
    joint = torch.tensor([[2.4, 1.4, 0.2], [0.6, 0.7, 1.7], [3.0, 0.0, 0.0]], dtype=torch.float64)
    # 2 + 1 + 0 lacks 1, which the first of the largest remainders gets; 1 + 1 + 2 is 1 too many, taken from what was rounded up the most
    assert rounded(joint).tolist() == [[3, 1, 0], [0, 1, 2], [3, 0, 0]]


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
    verdict = ConfidentLearning(folds=4, prune="both", score="self_confidence").judge(data, means, Key.root(0))
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


def test_a_head_on_the_features_of_one_victim_gives_out_of_sample_probabilities():
    """Features that separate two classes; one label of each is wrong, and every probability comes from a head that did not see the row."""
    generator = Key.root(100).torch()
    labels = torch.arange(40) % 2
    inputs = torch.randn(40, 2, generator=generator) + 6.0 * labels[:, None]
    given = labels.clone()
    given[:2] = 1 - given[:2]
    data = Dataset.of(inputs, given, num_classes=2)
    fits = []

    class Same:
        def features(self, rows):
            return rows

    def fit(rows, *, draw=0):
        fits.append(len(rows))
        return Same()

    means = Means(trusted=data, fit=fit, tune=None, truth=torch.zeros(0, dtype=torch.bool))
    verdict = ConfidentLearning(folds=4, prune="both", predict="head", score="margin").judge(data, means, Key.root(1))
    assert fits == [40]
    assert (~verdict.keep).nonzero()[:, 0].tolist() == [0, 1]
    assert verdict.evidence["guess"][:2].tolist() == labels[:2].tolist()
    assert verdict.suspicion[:2].min() > 0.8
    assert verdict.suspicion[2:].max() < verdict.suspicion[:2].min()


def test_a_fold_without_a_class_gives_it_the_probability_zero():
    data = Dataset.of(torch.tensor([[0.0], [1.0], [5.0], [6.0], [99.0]]), torch.tensor([0, 0, 1, 1, 2]), num_classes=3)
    means = Means(trusted=data, fit=lambda rows: Features(), tune=None, truth=torch.zeros(0, dtype=torch.bool))
    chances = headed(data, means, torch.tensor([0, 1, 0, 1, 0]))
    assert chances[4, 2] == 0
    torch.testing.assert_close(chances.sum(1), torch.ones(5, dtype=torch.float64))


class Features:
    def features(self, rows):
        return rows


def named_by_cleanlab(chances, labels, prune):
    from cleanlab.filter import find_label_issues

    mask = find_label_issues(labels.numpy(), chances.numpy(), filter_by=RULES[prune], n_jobs=1, min_examples_per_class=0)
    return torch.from_numpy(mask)


def noisy_chances(seed, rows=300, kinds=4):
    """Probabilities of a model that is often right, and labels of which a fifth was swapped between two classes."""
    generator = Key.root(seed).torch()
    labels = torch.randint(kinds, (rows,), generator=generator)
    scores = torch.randn(rows, kinds, generator=generator, dtype=torch.float64) + 3.0 * torch.nn.functional.one_hot(labels, kinds)
    swapped = torch.rand(rows, generator=generator) < 0.2
    return scores.softmax(1), torch.where(swapped & (labels < 2), 1 - labels, labels)


RULES = {"both": "both", "by_class": "prune_by_class", "by_noise_rate": "prune_by_noise_rate", "confident_joint": "confident_learning"}


@pytest.mark.parametrize("prune", RULES)
@pytest.mark.parametrize("seed", [100, 101, 102])
def test_the_same_rows_are_wrong_as_in_cleanlab(prune, seed):
    chances, labels = noisy_chances(seed)
    ours = ConfidentLearning(folds=2, prune=prune).wrong(chances, labels)
    assert ours.any()
    assert ours.tolist() == named_by_cleanlab(chances, labels, prune).tolist()


@pytest.mark.filterwarnings("ignore:May not flag all label issues in class. 2:UserWarning")
@pytest.mark.parametrize("prune", RULES)
def test_the_same_rows_are_wrong_as_in_cleanlab_where_a_class_has_no_rows(prune):
    chances, labels = noisy_chances(100)
    chances, labels = chances[labels != 2], labels[labels != 2]
    ours = ConfidentLearning(folds=2, prune=prune).wrong(chances, labels)
    assert ours.any()
    assert ours.tolist() == named_by_cleanlab(chances, labels, prune).tolist()


@pytest.mark.parametrize("prune", RULES)
def test_the_same_rows_are_wrong_as_in_cleanlab_where_all_probabilities_are_zero_or_one(prune):
    chances, labels = noisy_chances(100)
    chances = torch.nn.functional.one_hot(chances.argmax(1), 4).double()
    ours = ConfidentLearning(folds=2, prune=prune).wrong(chances, labels)
    assert ours.any()
    assert ours.tolist() == named_by_cleanlab(chances, labels, prune).tolist()


@pytest.mark.parametrize("seed", [100, 101, 102])
def test_among_equal_probabilities_other_rows_than_those_of_cleanlab_may_be_wrong(seed):
    """Probabilities in steps of about 1/8, so that many tie; rows of one class that differ have one probability of their label."""
    chances, labels = noisy_chances(seed)
    steps = (8 * chances).round()
    chances = steps / steps.sum(1, keepdim=True)
    ours, theirs = ConfidentLearning(folds=2, prune="by_class").wrong(chances, labels), named_by_cleanlab(chances, labels, "by_class")
    assert (ours & theirs).sum() >= 0.8 * theirs.sum()
    for label in range(4):
        assert len(own(chances, labels)[(ours != theirs) & (labels == label)].unique()) <= 1


@pytest.mark.parametrize("prune", RULES)
def test_a_label_that_is_the_most_probable_class_or_ties_with_it_is_never_wrong(prune):
    """Thresholds 0.83 and 0.375: row 2 is guessed to be of class 1, but its label is more probable."""
    first = torch.tensor([0.95, 0.95, 0.6, 0.3, 0.8, 0.5, 0.9], dtype=torch.float64)
    chances, labels = torch.stack([first, 1 - first], 1), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    assert guesses(chances, labels)[2] == 1
    ours = ConfidentLearning(folds=2, prune=prune).wrong(chances, labels)
    assert not ours[2]
    assert ours.tolist() == named_by_cleanlab(chances, labels, prune).tolist()


def test_a_label_that_ties_with_the_most_probable_class_is_never_wrong():
    """Thresholds 0.9 and 0.6: of class 1, one row is counted as wrong and two as right, scaled to 2 and 3 of five; the second smallest is a tie."""
    first = torch.tensor([0.9, 0.9, 0.9, 0.5, 0.5, 0.05, 0.05], dtype=torch.float64)
    chances, labels = torch.stack([first, 1 - first], 1), torch.tensor([0, 0, 1, 1, 1, 1, 1])
    counted = guesses(chances, labels)
    assert counted.tolist() == [0, 0, 0, -1, -1, 1, 1]
    assert by_class(rounded(calibrated(counted, labels, 2)), chances, labels).sum() == 2
    assert ConfidentLearning(folds=2, prune="by_class").wrong(chances, labels).nonzero()[:, 0].tolist() == [2]
    assert named_by_cleanlab(chances, labels, "by_class").nonzero()[:, 0].tolist() == [2]


def test_swapped_labels_of_two_similar_classes_rank_higher_by_margin_than_by_self_confidence():
    """A row of class 2 that the model splits between its right classes 0 and 1, and a swapped row that it is sure about."""
    chances = torch.tensor([[0.30, 0.35, 0.35], [0.60, 0.39, 0.01]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    assert own(chances, labels).tolist() == [0.30, 0.39]  # self confidence ranks the ambiguous row first
    margins = chances.gather(1, rivals(chances, labels)[:, None])[:, 0] - own(chances, labels)
    torch.testing.assert_close(margins, torch.tensor([0.05, 0.21], dtype=torch.float64))  # the margin ranks the swapped row first


def test_a_probability_of_exactly_one_is_the_least_suspicious():
    chances = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0])
    margins = chances.gather(1, rivals(chances, labels)[:, None])[:, 0] - own(chances, labels)
    assert margins.argsort().tolist() == [0, 1, 2]
