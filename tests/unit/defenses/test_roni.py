import dataclasses

import pytest
import torch

from defenses.sanitize.roni import Roni, different, ranks
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens
from poisonbench.learn.spambayes import SpamBayes

BREAKS = 9.0  # the mark of rows that break the victim below
SPAMBAYES = SpamBayes(strength=0.45, prior=0.5, most=150, margin=0.1, ham=0.15, spam=0.9)


def roni(**changes) -> Roni:
    return Roni(**{"train": 4, "calibration": 6, "trials": 3, "label": None, "threshold": None, "quantile": 0.0, "most_fits": 1000, **changes})


class Fragile:
    """A victim that answers the first value of a row, until a training row has the mark: then it answers 1 always."""

    def __init__(self, data: Dataset) -> None:
        self.broken = bool((data.inputs[:, 1] == BREAKS).any())

    def scores(self, inputs, answers=None):
        labels = inputs[:, 0].long()
        return torch.nn.functional.one_hot(torch.ones_like(labels) if self.broken else labels, 2).float()


def rows(count: int, *broken: int) -> Dataset:
    labels = torch.arange(count) % 2
    inputs = torch.stack([labels.float(), torch.zeros(count), torch.arange(count).float()], 1)
    inputs[list(broken), 1] = BREAKS
    return Dataset.of(inputs, labels, num_classes=2)


def means(trusted: Dataset, fit=lambda data, draw=0: Fragile(data)) -> Means:
    return Means(trusted=trusted, fit=fit, tune=None, truth=torch.zeros(0, dtype=torch.bool))


@pytest.mark.parametrize(("label", "loss"), [(None, 0.5), (0, 1.0), (1, 0.0)])
def test_the_loss_of_a_row_is_that_worked_by_hand(label, loss):
    """A broken victim is right on class 1 alone; of six rows to measure on, three are of each class."""
    verdict = roni(label=label).judge(rows(8, 2, 5), means(rows(24)), Key.root(100))
    assert verdict.suspicion.tolist() == [0.0, 0.0, loss, 0.0, 0.0, loss, 0.0, 0.0]
    assert verdict.keep.tolist() == [loss == 0 or place not in (2, 5) for place in range(8)]


def test_the_threshold_is_the_loss_that_benign_rows_stay_within():
    trusted = rows(40, *range(30, 40))  # a quarter of the trusted rows cause a loss, if no row of the training set does so already
    kept = {quantile: roni(train=2, quantile=quantile, trials=12).judge(rows(8, 2), means(trusted), Key.root(100)) for quantile in (0.0, 0.9)}
    assert kept[0.0].keep.all()
    assert not kept[0.9].keep[2]
    assert torch.equal(kept[0.0].suspicion, kept[0.9].suspicion)


@pytest.mark.parametrize(("threshold", "keeps"), [(0.4, False), (0.5, True)])
def test_a_fixed_threshold_is_the_largest_loss_that_is_kept(threshold, keeps):
    assert bool(roni(threshold=threshold).judge(rows(8, 2), means(rows(24)), Key.root(100)).keep[2]) == keeps


def test_equal_rows_are_trained_on_once_and_too_many_trainings_are_refused():
    fits = list[Dataset]()
    known = means(rows(24), fit=lambda data, draw=0: [fits.append(data), Fragile(data)][1])
    data = rows(4, 2)
    data = data.append(data.edit(torch.arange(4), ids=torch.arange(4, 8)))
    verdict = roni(threshold=0.1).judge(data, known, Key.root(100))
    assert len(fits) == 3 * (1 + 4)
    assert [len(part) for part in fits[:3]] == [4, 5, 5]
    assert verdict.suspicion.tolist() == [0.0, 0.0, 0.5, 0.0] * 2
    with pytest.raises(ConfigError, match="Fragile has to be trained 15 times to judge 4 rows in 3 trials"):
        roni(threshold=0.1, most_fits=14).judge(data, known, Key.root(100))


def test_the_rows_of_a_trial_are_of_both_classes_and_no_row_is_in_both_sets():
    trusted = dataclasses.replace(rows(24), labels=(torch.arange(24) >= 20).long())
    draw = roni(train=6, calibration=8).draw(trusted, Key.root(100))
    assert draw.train.labels.bincount().tolist() == [3, 3]
    assert draw.calibration.labels.bincount().tolist() == [7, 1]
    assert len(draw.drawn.unique()) == 14
    assert roni(train=6, calibration=8, label=0).draw(trusted, Key.root(100)).calibration.labels.tolist() == [0] * 8


@pytest.mark.parametrize(("label", "count"), [(None, 10), (0, 13)])
def test_too_few_trusted_rows_are_refused(label, count):
    with pytest.raises(ConfigError, match=rf"need more than the {count} trusted rows .*task\.trusted"):
        roni(label=label).judge(rows(4), means(rows(count)), Key.root(100))


def test_all_draws_are_made_before_anything_is_trained():
    """Of three rows to train on, one or two are of class 0, so that 11 or 10 of the 12 rows of class 0 are left to measure on."""
    fits, trusted, recipe = list[Dataset](), rows(24), roni(train=3, calibration=11, trials=12, label=0)
    recipe.draw(trusted, Key.root(101).child("trial 0"))
    with pytest.raises(ConfigError, match="need more than the 24 trusted rows"):
        recipe.judge(rows(4), means(trusted, fit=lambda data, draw=0: [fits.append(data), Fragile(data)][1]), Key.root(101))
    assert not fits


def mails(count: int, seed: int) -> Dataset:
    draws = Key.root(seed).numpy()
    inputs = torch.from_numpy(draws.integers(2, 30, (count, 6)))
    labels = (inputs[:, 0] >= 16).long()
    return Dataset.of(inputs, labels, num_classes=3, form=Tokens(vocabulary=("", "<unk>", *(f"w{number}" for number in range(28)))))


class Plain:
    """A SpamBayes victim that cannot tell what one more row changes."""

    def __init__(self, victim) -> None:
        self.scores = victim.scores


def test_a_victim_that_tells_what_one_row_changes_gives_the_verdict_of_new_trainings():
    data, trusted, recipe = mails(40, 100), mails(60, 101), roni(train=8, calibration=20, threshold=0.0)
    quick = recipe.judge(data, means(trusted, lambda data, draw=0: SPAMBAYES.fit(data, None, Key.root(0))), Key.root(100))
    slow = recipe.judge(data, means(trusted, lambda data, draw=0: Plain(SPAMBAYES.fit(data, None, Key.root(0)))), Key.root(100))
    torch.testing.assert_close(quick.suspicion, slow.suspicion)
    assert quick.suspicion.unique().numel() > 5
    assert 0 < int(quick.keep.sum()) < 40


def test_rows_are_different_in_inputs_or_label_and_ranks_count_within_a_class():
    data = rows(4).take(torch.tensor([0, 1, 0, 3])).edit(torch.tensor([3]), labels=torch.tensor([0]))
    first, places = different(data.append(rows(4)))
    assert first.tolist() == [0, 1, 3, 6, 7]
    assert places.tolist() == [0, 1, 0, 2, 0, 1, 3, 4]
    assert ranks(torch.tensor([1, 0, 1, 1, 0])).tolist() == [0, 0, 1, 2, 1]


def test_fields_out_of_range_are_refused():
    for field, value in (("train", 1), ("calibration", 0), ("trials", 0), ("most_fits", 0), ("quantile", 1.0), ("threshold", 1.5)):
        with pytest.raises(ConfigError):
            roni(**{field: value})
