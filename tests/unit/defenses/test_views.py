"""Views of pictures and captions by hand, and the losses that compare them."""

import math

import pytest
import torch

from defenses.views import Views, found
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import PADDING

STILL = {"shift": 0, "light": 0.0, "noise": 0.0, "words": 0.0}
IDS, RNG = torch.arange(200), Key.root(0)


def views(**fields) -> Views:
    return Views(**{**STILL, **fields})


def test_views_without_changes_keep_pictures():
    pictures = 255 * torch.rand(200, 1, 4, 4, generator=RNG.torch())
    assert torch.equal(views().pictures(pictures, IDS, RNG), pictures)


def test_each_change_of_a_picture_is_the_one_that_its_setting_names():
    grey = torch.full((200, 1, 6, 6), 100.0)
    lit = views(light=0.2).pictures(grey, IDS, RNG)
    assert torch.equal(lit.flatten(1).amin(1), lit.flatten(1).amax(1))  # the same factor for all pixels of a picture
    assert 80 <= lit.min() < 85
    assert 115 < lit.max() <= 120
    moved = views(shift=1).pictures(grey, IDS, RNG)
    assert set((moved == 0).flatten(1).sum(1).tolist()) == {0, 6, 11}  # no shift, along one side, along both
    noisy = views(noise=8.0).pictures(grey, IDS, RNG)
    assert float(noisy.std()) == pytest.approx(8, rel=0.05)
    assert views(noise=300.0).pictures(grey, IDS, RNG).aminmax() == (0, 255)


def test_words_are_left_out_with_their_chance_and_one_stays():
    captions = torch.tensor([[2, 3, 4, 5, PADDING]]).repeat(200, 1)
    seen = views(words=0.25).captions(captions, IDS, RNG)
    assert float((seen != PADDING).sum(1).double().mean()) == pytest.approx(3, abs=0.15)
    assert all(set(row) <= {2, 3, 4, 5, PADDING} and row == sorted(row, key=lambda word: word == PADDING) for row in seen.tolist())
    nearly_none = views(words=0.999).captions(captions, IDS, RNG)
    assert ((nearly_none != PADDING).sum(1) >= 1).all()
    assert ((nearly_none != PADDING).sum(1) == 1).double().mean() > 0.95


def test_two_words_at_most_change_places():
    captions = torch.tensor([[2, 3, 4, PADDING]]).repeat(200, 1)
    seen = views().captions(captions, IDS, RNG)
    assert torch.equal(seen.sort(1).values, captions.sort(1).values)
    assert set(map(tuple, seen.tolist())) == {(2, 3, 4, 0), (3, 2, 4, 0), (4, 3, 2, 0), (2, 4, 3, 0)}
    assert views().captions(torch.zeros(1, 3, dtype=torch.int64), IDS[:1], RNG).tolist() == [[0, 0, 0]]


def test_a_view_depends_on_the_row_and_not_on_its_place():
    captions = torch.tensor([[2, 3, 4, 5]]).repeat(200, 1)
    order = torch.arange(199, -1, -1)
    settings = views(words=0.3)
    assert torch.equal(settings.captions(captions, IDS[order], RNG), settings.captions(captions, IDS, RNG)[order])
    pictures = 255 * torch.rand(200, 1, 4, 4, generator=RNG.torch())
    settings = views(shift=1, light=0.2)
    assert torch.equal(settings.pictures(pictures[order], IDS[order], RNG), settings.pictures(pictures, IDS, RNG)[order])


def test_the_loss_of_views_is_by_hand():
    own, seen = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    by_hand = [-math.log(math.exp(2) / (2 * math.exp(2) + 1)), -math.log(math.exp(2) / (math.exp(2) + 2)), math.log(3)]
    assert found(own, seen, torch.tensor(2.0)).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("fields", [{"shift": -1}, {"light": 1.5}, {"noise": math.inf}, {"words": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        views(**fields)
