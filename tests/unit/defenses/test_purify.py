"""Training on purified pictures."""

import dataclasses

import pytest
import torch

from defenses.train.purify import Purified, Purify, blurred, pictures_of
from poisonbench.core.combine import honest
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.shapes import PICTURE
from poisonbench.runner.pipeline import run

PURIFY = Purify(how="blur", quality=75, sigma=1.0, deviation=8.0)


class Remembering:
    """A learner whose victim is the rows that it gets."""

    def fit(self, data, combine, rng, start=None):
        return data


def test_a_blurred_line_is_a_gaussian_and_flat_pictures_stay_flat():
    line = torch.zeros(1, 1, 9, 9)
    line[:, :, :, 4] = 100
    bell = torch.exp(-0.5 * torch.arange(-3.0, 4).square())
    torch.testing.assert_close(blurred(line, 1.0)[0, 0, 0, 1:8], 100 * bell / bell.sum())
    torch.testing.assert_close(blurred(torch.full((2, 3, 8, 8), 77.0), 2.0), torch.full((2, 3, 8, 8), 77.0))


def test_noise_has_the_deviation_and_a_row_has_the_same_noise_wherever_it_stands():
    pictures, ids = torch.full((40, 3, 16, 16), 128, dtype=torch.uint8), torch.arange(40)
    noise = dataclasses.replace(PURIFY, how="noise")
    found = noise.purified(pictures, ids, Key.root(100))
    assert abs(float(found.float().std()) - 8) < 0.2  # 30,720 draws: the standard error is 0.03
    assert torch.equal(noise.purified(pictures, ids.flip(0), Key.root(100)).flip(0), found)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(dataclasses.replace(noise, deviation=0.0).purified(pictures, ids, Key.root(100)), pictures)


@pytest.mark.parametrize(("words", "name"), [((), "inputs"), (("task=concepts",), PICTURE)])
def test_the_member_gets_purified_pictures_and_all_else_as_it_is(tiny, words, name):
    data = tiny(*words).task.train
    seen = Purified(member=Remembering(), recipe=PURIFY).fit(data, honest(data), Key.root(100))
    assert pictures_of(data) == [name]
    assert torch.equal(seen.columns[name], PURIFY.purified(data.columns[name], data.ids, Key.root(0)))
    assert not torch.equal(seen.columns[name], data.columns[name])
    assert all(torch.equal(column, data.columns[other]) for other, column in seen.columns.items() if other != name)


def test_training_on_purified_pictures_still_learns(tiny, store):
    assert run(tiny("defense=purify"), store).metrics["c_acc"] > 0.9


def test_rows_without_pictures_skip_the_run(tiny, store):
    record = run(tiny("task=sentiment", "defense=purify"), store)
    assert record.status == "skipped"
    assert "pictures" in record.reason


@pytest.mark.parametrize("fields", [{"how": "wash"}, {"quality": 0}, {"sigma": 0.0}, {"deviation": -1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(PURIFY, **fields)
