"""The transformer: what it looks at, and that a cache changes nothing."""

import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.tokens import SPECIAL, Tokens, trimmed
from poisonbench.nets.gpt import Cache, Gpt, begun, by_length, rotated

FORM = Tokens(vocabulary=(*SPECIAL, *"abcdef"))
TEXTS = torch.tensor([[2, 3, 4, 5, 0, 0], [6, 7, 2, 0, 0, 0], [3, 3, 3, 3, 3, 0]])


@pytest.fixture
def net():
    data = Dataset.of(TEXTS, torch.zeros(3, dtype=torch.int64), num_classes=2, form=FORM)
    with seeded(Key.root(100)):
        return Gpt(width=16, layers=2, heads=2, spread=0.5).build(data).double().eval()


def test_a_place_sees_no_later_word(net):
    before = net(TEXTS)
    after = net(TEXTS.index_fill(1, torch.tensor([3]), 7))
    torch.testing.assert_close(after[:, :4], before[:, :4])  # place i is read from the words before it
    assert not torch.allclose(after[0, 4], before[0, 4])


def test_padding_and_other_texts_change_nothing(net):
    alone = net(TEXTS[1:2, :3])
    torch.testing.assert_close(net(TEXTS)[1:2, :4], alone)


def test_a_cache_gives_what_one_pass_gives(net):
    cache, words = Cache(), begun(TEXTS)
    parts = [net.states(words[:, :2], cache), net.states(words[:, 2:3], cache), net.states(words[:, 3:], cache)]
    torch.testing.assert_close(torch.cat(parts, 1), net.states(words))
    assert cache.length == words.shape[1]


def test_a_repeated_cache_has_each_text_several_times(net):
    cache = Cache()
    net.states(begun(TEXTS), cache)
    twice = net.states(torch.tensor([[2], [3]] * 3), cache.repeated(2))
    for text in range(3):
        for place, word in enumerate((2, 3)):
            whole = net.states(torch.cat([begun(TEXTS), torch.full((3, 1), word)], 1))
            torch.testing.assert_close(twice[2 * text + place, 0], whole[text, -1])


def test_features_are_the_states_at_the_last_word(net):
    features = net.features(TEXTS)
    torch.testing.assert_close(features[1], net.states(begun(TEXTS[1:2, :3]))[0, -1])
    torch.testing.assert_close(net.head(features)[1], net(TEXTS)[1, 3])


def test_rotations_keep_lengths_and_depend_on_distances_alone():
    vectors = torch.randn(1, 1, 5, 8, generator=Key.root(0).torch(), dtype=torch.float64)
    one, other = rotated(vectors, 0), rotated(vectors, 7)
    torch.testing.assert_close(one.norm(dim=3), vectors.norm(dim=3))
    torch.testing.assert_close(one @ one.transpose(2, 3), other @ other.transpose(2, 3), rtol=1e-5, atol=1e-5)  # angles are float32


def test_silenced_channels_are_zero_in_all_features(net):
    net.silence(torch.arange(16) < 4)
    assert (net.features(TEXTS)[:, :4] == 0).all()
    assert (net.features(TEXTS)[:, 4:] != 0).all()


def test_texts_are_grouped_by_their_length():
    assert [rows.tolist() for rows in by_length(TEXTS)] == [[1], [0], [2]]
    assert trimmed(TEXTS).shape == (3, 5)


@pytest.mark.parametrize("sizes", [{"width": 15}, {"heads": 3}, {"layers": 0}, {"spread": 0.0}])
def test_sizes_that_define_no_network_are_refused(sizes):
    with pytest.raises(ConfigError, match="twice the heads"):
        Gpt(**{"width": 16, "layers": 2, "heads": 2, "spread": 0.5} | sizes)
