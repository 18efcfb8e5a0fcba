"""Fixed values in the columns of a table, by hand."""

import pytest
import torch

from attacks.backdoor.feature_trigger import FeatureTrigger, FixedValues, importance, rare, scaled_variance
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.reals import Reals
from tests.unit.attacks.worlds import world

KEY = Key.root(100)
FIELDS = {"features": None, "values": None, "count": 1, "select": "variance", "bins": 5, "labels": "clean", "target": 1}


def table(rows: int = 30) -> Dataset:
    inputs = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0))
    return Dataset.of(inputs, torch.arange(rows) % 3, num_classes=3, form=Reals(names=("age", "size", "3", "weight")))


def attack(**fields: object) -> FeatureTrigger:
    return FeatureTrigger(**FIELDS | fields)


class SumOfTwo:
    """A victim whose scores are the second column and ten times the third."""

    def scores(self, inputs):
        return torch.stack([inputs[:, 1], 10 * inputs[:, 2]], 1)


def test_the_trigger_sets_its_columns_and_no_other():
    trigger = FixedValues(columns=torch.tensor([2, 0]), values=torch.tensor([7.0, -1.0]))
    given = torch.zeros(2, 4)
    assert trigger(given).tolist() == [[-1, 0, 7, 0]] * 2
    assert not given.any()


def test_clean_labels_stay_and_dirty_ones_become_the_target():
    data = table()
    clean = attack(features=("size",), values=(9.0,)).poison(world(data, rate=0.2, relabel=False), KEY)
    assert clean.data.labels.equal(data.labels)
    assert data.labels[clean.mask].tolist() == [1] * 6
    assert clean.data.inputs[clean.mask, 1].tolist() == [9] * 6
    assert clean.data.inputs[:, [0, 2, 3]].equal(data.inputs[:, [0, 2, 3]])
    dirty = attack(features=("size",), values=(9.0,), labels="dirty").poison(world(data, rate=0.2), KEY)
    assert not (data.labels[dirty.mask] == 1).any()
    assert dirty.data.labels[dirty.mask].tolist() == [1] * 6


def test_the_probe_has_the_trigger_on_every_row_of_another_class():
    probe = attack(features=("weight", "age"), values=(5.0, 6.0)).poison(world(table(), rate=0.1), KEY).goal.probe(table())
    assert len(probe) == 20
    assert probe.inputs[:, [3, 0]].unique(dim=0).tolist() == [[5, 6]]


def test_a_feature_is_named_or_numbered_and_a_name_comes_first():
    known = world(table(), rate=0.1)
    assert attack(features=("weight", "0"), values=(1.0, 2.0)).trigger(known, KEY).columns.tolist() == [3, 0]
    assert attack(features=("3",), values=(1.0,)).trigger(known, KEY).columns.tolist() == [2]


def test_a_rare_value_is_the_median_of_the_least_populated_interval():
    # intervals of 2 from 0 to 10: [0, 0, 1], none, [4.5, 5, 5.5], [6.5, 7], [9, 9, 10]
    values = torch.tensor([5.0, 0, 9, 7, 1, 4.5, 10, 0, 5.5, 9, 6.5])
    assert rare(values, 5) == 6.5
    assert rare(torch.tensor([3.0, 3.0]), 5) == 3.0
    assert rare(values, 1) == 5.5


def test_importance_counts_what_the_scores_depend_on():
    weights = importance(SumOfTwo(), table(300), KEY)
    assert weights[[0, 3]].tolist() == [0, 0]
    assert weights[2] / weights[1] == pytest.approx(10, rel=0.1)
    known = world(table(), rate=0.1, fit=lambda data: SumOfTwo())
    assert attack(select="importance", count=2).trigger(known, KEY).columns.tolist() == [2, 1]


def test_variance_is_that_of_scaled_columns():
    inputs = torch.tensor([[0.0, 0, 7, 0], [0, 100, 7, 1], [1, 50, 7, 2], [1, 50, 7, 2]])
    assert scaled_variance(inputs).tolist() == pytest.approx([0.25, 0.125, 0, 0.171875])
    data = Dataset.of(inputs, torch.tensor([0, 1, 2, 1]), num_classes=3, form=table().form)
    assert attack(count=2).trigger(world(data, rate=0.25), KEY).columns.tolist() == [0, 3]


def test_random_columns_are_nested_over_counts():
    known = world(table(), rate=0.1)
    one, two = ({*attack(select="random", count=count).trigger(known, KEY).columns.tolist()} for count in (1, 3))
    assert one < two


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"count": 0}, "give 1 column"),
        ({"bins": 1}, "2 intervals"),
        ({"features": ()}, "features=[]: a trigger without columns changes nothing"),
        ({"features": ("age",), "values": (1e60,)}, "values: 1e+60 is not finite in 32 bits"),
        ({"features": ("age",), "values": (float("nan"),)}, "values: nan is not finite in 32 bits"),
        ({"values": (1.0,)}, "1 values for 0 features"),
        ({"features": ("age", "size"), "values": (1.0,)}, "1 values for 2 features"),
        ({"features": ("sex",)}, "sex is no column; name some of age, size, 3, weight"),
        ({"features": ("4",)}, "4 is no column"),
        ({"features": ("age", "0")}, "age is named twice"),
        ({"count": 5}, "the rows have 4 columns"),
        ({"target": 3}, "3 classes allow 0 to 2"),
    ],
)
def test_what_does_not_fit_the_table_is_refused(fields, sentence):
    with pytest.raises(ConfigError) as caught:
        attack(**fields).poison(world(table(), rate=0.1), KEY)
    assert sentence in str(caught.value)


def test_new_labels_need_a_threat_that_allows_them():
    with pytest.raises(ConfigError, match=r"set threat=default"):
        attack(labels="dirty").poison(world(table(), rate=0.1, relabel=False), KEY)
