import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.rng import Key
from poisonbench.tasks.digits import Digits
from poisonbench.tasks.source import Split, own, stratified

WHOLE = {"limit": None, "trusted": 0.05, "public": 0.0, "split_seed": 0}


def digits(store, **fields):
    return Digits(**{**WHOLE, **fields}).load(store)


def test_digits_are_1437_and_360_rows_whatever_the_setting(store):
    task = digits(store)
    assert len(task.train) + len(task.trusted) == 1437
    assert len(task.test) == 360
    assert digits(store, split_seed=1, trusted=0.1).test.digest == task.test.digest
    assert task.train.inputs.dtype == torch.uint8
    assert task.train.inputs.max() == 255
    assert task.train.labels.bincount().min() > 120


def test_splits_overlap_nowhere_and_lose_nothing(store):
    task = digits(store, public=0.1)
    ids = torch.cat([task.train.ids, task.trusted.ids, task.public.ids])
    assert ids.sort().values.tolist() == list(range(1437))
    assert (len(task.trusted), len(task.public)) == (72, 144)


def test_no_trusted_rows_leave_the_training_set_whole(store):
    task = digits(store, trusted=0.0)
    assert len(task.train) == 1437
    assert len(task.trusted) == 0
    assert torch.equal(task.train.ids, torch.arange(1437))


def test_a_limit_keeps_the_classes_in_proportion(store):
    task = digits(store, limit=200, trusted=0.0)
    assert len(task.train) == 200
    assert task.train.labels.bincount().tolist() == pytest.approx([20] * 10, abs=1)
    assert digits(store, limit=200, trusted=0.0, split_seed=1).train.digest != task.train.digest


@pytest.mark.parametrize("field", [{"limit": 5}, {"limit": 2000}, {"trusted": 1.0}, {"trusted": -0.1}, {"trusted": 0.6, "public": 0.4}])
def test_splits_that_leave_nothing_to_train_on_are_refused(store, field):
    with pytest.raises(ConfigError, match="task"):
        digits(store, **field)


def test_stratified_shares_differ_by_less_than_a_row_a_class():
    labels = torch.cat([torch.zeros(70), torch.ones(20), torch.full((10,), 2)]).long()
    data = Dataset.of(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), labels, num_classes=3)
    chosen, left = stratified(data, 50, Key.root(0))
    assert labels[chosen].bincount().tolist() == pytest.approx([35, 10, 5], abs=1)
    assert torch.cat([chosen, left]).sort().values.tolist() == list(range(100))


def test_own_tensors_become_a_task():
    inputs, labels = torch.zeros(20, 3, 4, 4, dtype=torch.uint8), torch.arange(20) % 2
    task = own("mine", train=(inputs, labels), test=(inputs, labels), split=Split(**{**WHOLE, "trusted": 0.1}))
    assert (len(task.train), len(task.trusted), task.train.num_classes) == (18, 2, 2)
    with pytest.raises(DataError, match="mine, test rows: label 4"):
        own("mine", train=(inputs, labels), test=(inputs, labels + 4))
