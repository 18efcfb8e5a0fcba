import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from poisonbench import own_task
from poisonbench.core.data import Dataset
from poisonbench.core.duplicates import duplicates
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.keys import canonical
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run
from poisonbench.tasks.digits import Digits, bundled
from poisonbench.tasks.own import own
from poisonbench.tasks.source import Raw, Split, stratified

WHOLE = {"limit": None, "trusted": 0.05, "public": 0.0, "split_seed": 0}


def digits(store, **fields):
    return Digits(**{**WHOLE, **fields}).load(store)


@pytest.mark.parametrize("moved", [False, True])
def test_digits_are_those_of_scikit_learn_wherever_its_file_lies(monkeypatch, moved):
    """The file is read by its path; if it does not exist, scikit-learn reads it."""
    monkeypatch.setattr(Path, "is_file", lambda path: not moved)
    images, labels = bundled()
    theirs = load_digits()
    assert np.array_equal(images, theirs.images)
    assert np.array_equal(labels, theirs.target)


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
    inputs, labels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, 4, 4), torch.arange(20) % 2
    task = own("mine", train=(inputs, labels), test=(255 - inputs, labels), split=Split(**{**WHOLE, "trusted": 0.1}))
    assert (len(task.train), len(task.trusted), task.train.num_classes) == (18, 2, 2)
    with pytest.raises(DataError, match="mine, test rows: label 4"):
        own("mine", train=(inputs, labels), test=(inputs, labels + 4))


def pictures(*shades: int) -> torch.Tensor:
    return torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def raw(train: list[int], test: list[int], names: tuple[str, ...] = ()) -> Raw:
    columns = [{"inputs": pictures(*rows), "labels": torch.arange(len(rows)) % 2} for rows in (train, test)]
    return Raw(train=columns[0], test=columns[1], class_names=("0", "1"), row_names=names)


def test_duplicates_across_splits_are_found_by_whole_rows():
    splits = {"train": pictures(1, 2, 2, 3), "test": pictures(4, 2, 3, 2), "trusted": pictures(5), "public": pictures(4, 9)}
    found = {pair: places.tolist() for pair, places in duplicates(splits).items()}
    assert found == {"train/test": [[1, 1], [3, 2], [1, 3]], "test/public": [[0, 0]]}


def test_the_duplicates_are_those_of_a_comparison_of_every_pair_of_rows():
    draw = torch.randint(0, 2, (200, 7), generator=Key.root(5).torch()).float() - 0.0
    one, other = draw[:80], -draw[80:] * -1  # with zeros of both signs, which are equal
    equal = (one[:, None] == other[None]).all(2)
    told = duplicates({"a": one, "b": other})["a/b"]
    assert told.tolist() == [[int(equal[:, place].nonzero()[0]), place] for place in equal.any(0).nonzero()[:, 0].tolist()]


def test_a_row_that_comes_twice_in_one_split_is_no_overlap(store):
    split = Split(**{**WHOLE, "trusted": 0.0})
    task = split.task("mine", raw([1, 1, 2, 2], [3, 3]))
    assert not task.duplicates
    assert duplicates({"train": torch.zeros(0, 2), "test": torch.zeros(3, 2)}) == {}


@pytest.mark.parametrize("names", [(), ("a.png", "b.png", "c.png", "d.png")])
def test_a_test_row_that_is_a_training_row_is_counted_named_and_refused(names):
    split = Split(**{**WHOLE, "trusted": 0.0})
    where = "c.png" if names else "train row 2"
    with pytest.raises(DataError, match=rf"mine: 1 test rows are train rows too \(test row 1 is {where}\); remove them, .* task\.duplicates=allow"):
        split.task("mine", raw([1, 2, 3, 4], [5, 3, 6], names))  # under another label
    assert dataclasses.replace(split, duplicates="allow").task("mine", raw([1, 2, 3, 4], [5, 3, 6], names)).duplicates.keys() == {"train/test"}


def test_only_the_first_few_duplicates_are_named():
    rows = [1, 2, 3, 4, 5, 6]
    with pytest.raises(DataError, match=r"6 test rows are train rows too \((?:test row \d is train row \d, ){3}\.\.\.\)"):
        Split(**{**WHOLE, "trusted": 0.0}).task("mine", raw(rows, rows))


@pytest.mark.parametrize("share", ["trusted", "public"])
def test_training_rows_that_come_twice_may_not_be_split(share):
    """Every row four times over: whatever is split off has a duplicate left in the training rows."""
    with pytest.raises(DataError, match=rf"3 {share} rows are train rows too \({share} row \d+ is train row \d+, "):
        Split(**{**WHOLE, "trusted": 0.0, share: 0.25}).task("mine", raw([1, 2, 3] * 4, [9, 10]))


def test_own_rows_may_overlap_only_where_it_is_said():
    inputs, labels = torch.arange(400).view(100, 1, 2, 2).to(torch.uint8), torch.arange(100) % 4
    inputs[:, 0, 0, 0] = torch.arange(100).to(torch.uint8)
    rows = {"train": (inputs.repeat(4, 1, 1, 1), labels.repeat(4)), "test": (inputs, labels)}
    with pytest.raises(DataError, match="own: 100 test rows are train rows too"):
        own_task(**rows, trusted=0.2)
    task = own_task(**rows, trusted=0.2, duplicates="allow")
    assert {pair: len(places) for pair, places in task.duplicates.items()} == {"train/test": 100, "train/trusted": 80, "test/trusted": 80}


def test_the_record_counts_duplicates_and_only_where_there_are_some(tiny, store):
    experiment = tiny()
    assert "duplicates" not in run(experiment, store).counts
    task = dataclasses.replace(experiment.task, test=experiment.task.test.append(experiment.task.train.take(torch.arange(3))))
    with pytest.raises(DataError, match="3 test rows are train rows too"):
        run(dataclasses.replace(experiment, task=task), store)  # whoever made the task
    allowed = dataclasses.replace(task, overlap="allow")
    assert run(dataclasses.replace(experiment, task=allowed), store).counts["duplicates"] == 3


def test_a_field_that_came_later_keeps_keys(store):
    assert "duplicates" not in canonical(Split(**WHOLE))
    assert canonical(Split(**WHOLE, duplicates="allow"))["duplicates"] == "allow"


def test_a_task_may_have_no_test_rows_but_never_no_training_rows():
    split = Split(**{**WHOLE, "trusted": 0.0})
    rows = raw([1, 2, 3, 4], [5])
    nothing = {"inputs": rows.test["inputs"][:0], "labels": rows.test["labels"][:0]}
    task = split.task("mine", dataclasses.replace(rows, test=nothing))
    assert (len(task.test), task.test.inputs.shape[1:], task.test.num_classes) == (0, (1, 2, 2), 2)
    with pytest.raises(DataError, match="mine, training rows: no rows"):
        split.task("mine", dataclasses.replace(rows, train=nothing))


def test_pictures_with_channels_last_are_refused(store):
    labels = torch.arange(20) % 2
    with pytest.raises(DataError, match=r"look like \(rows, height, width, channels\)"):
        own_task(train=(torch.zeros(20, 8, 8, 3, dtype=torch.uint8), labels), test=(torch.zeros(20, 8, 8, 3, dtype=torch.uint8), labels))
