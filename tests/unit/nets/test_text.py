import copy
import dataclasses

import pytest
import torch
from torch import nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.tokens import Tokens
from poisonbench.nets.text import MeanEmbedding, TextCNN, TextTransformer, text_net

FORM = Tokens(vocabulary=("", "<unk>", "a", "b", "c", "d"))
MEAN = MeanEmbedding(width=2, min_count=1, words=9, dropout=0.0, scale=2.0, spread=1.0)
CNN = TextCNN(width=2, min_count=1, words=9, dropout=0.5, scale=1.0, spread=1.0, windows=(2, 3), filters=2)
TRANSFORMER = TextTransformer(width=4, min_count=1, words=9, dropout=0.1, scale=1.0, spread=1.0, layers=2, heads=2)
NETS = [MEAN, CNN, TRANSFORMER]


def rows(*words: str, length: int = 6) -> Dataset:
    inputs = torch.stack([FORM.encode(text, length) for text in words])
    return Dataset.of(inputs, torch.zeros(len(words), dtype=torch.int64), num_classes=3, form=FORM)


def built(recipe, data: Dataset):
    with seeded(Key.root(100)):
        return recipe.build(data).eval()


def test_features_of_the_mean_are_the_scaled_mean_of_a_rows_embeddings():
    net = built(MEAN, data := rows("a b a", "c"))
    with torch.no_grad():
        net.table.weight.copy_(torch.tensor([[0.0, 0.0], [9.0, 9.0], [1.0, 2.0], [4.0, 5.0], [6.0, 7.0], [8.0, 8.0]]))
    torch.testing.assert_close(net.features(data.inputs), torch.tensor([[4.0, 6.0], [12.0, 14.0]]))  # 2 * (1 + 4 + 1) / 3, 2 * (2 + 5 + 2) / 3


def test_features_of_convolutions_are_the_largest_window_of_a_row():
    net = built(
        TextCNN(width=1, min_count=1, words=9, dropout=0.0, scale=1.0, spread=1.0, windows=(2,), filters=1), data := rows("a b c", "d d d d d", "b", length=6)
    )
    with torch.no_grad():
        net.table.weight.copy_(torch.tensor([[0.0], [9.0], [1.0], [-2.0], [3.0], [-1.0]]))
        net.filters[0].weight.copy_(torch.tensor([[1.0, 10.0]]))
        net.filters[0].bias.fill_(0.5)
    # "a b" gives 1 - 20, "b c" -2 + 30, "c" and a zero 3 + 0; windows of "d" are negative, so the rectifier gives 0
    torch.testing.assert_close(net.features(data.inputs), torch.tensor([[28.5], [0.0], [0.0]]))


@pytest.mark.parametrize("recipe", NETS)
def test_padding_changes_no_score(recipe):
    net = built(recipe, rows("a b c d", "b a"))
    alone, beside = net(rows("b a", length=2).inputs), net(rows("b a", "a b c d c a").inputs)[:1]
    torch.testing.assert_close(alone, beside)


@pytest.mark.parametrize("recipe", NETS)
def test_a_row_without_a_word_gets_finite_scores(recipe):
    net = built(recipe, data := rows("a b", "a"))
    assert net(torch.cat([data.inputs, torch.zeros(1, 6, dtype=torch.int64)])).isfinite().all()
    assert net(torch.zeros(1, 6, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize(("recipe", "same"), [(MEAN, True), (CNN, False), (TRANSFORMER, False)])
def test_the_order_of_words_matters_except_to_a_mean(recipe, same):
    net = built(recipe, rows("a b c d", "b a"))
    assert torch.allclose(net(rows("a b c d").inputs), net(rows("d b c a").inputs)) == same


@pytest.mark.parametrize("recipe", NETS)
def test_words_that_are_rare_in_the_training_rows_are_unknown(recipe):
    net = built(dataclasses.replace(recipe, min_count=2), rows("a a b", "b a"))
    net.prepare(rows("a a b", "b c a").inputs)
    assert net.known.tolist() == [True, False, True, True, False, False]
    torch.testing.assert_close(net(rows("a c b").inputs), net(rows("a d b").inputs))  # one was seen once, the other never
    net.know(FORM.ids(["c"]))
    assert not torch.allclose(net(rows("a c b").inputs), net(rows("a d b").inputs))


def test_only_the_most_frequent_words_get_a_row_of_the_table():
    net = built(dataclasses.replace(MEAN, words=2), data := rows("d d d b b a", "a a c"))
    net.prepare(data.inputs)
    assert net.table.num_embeddings == 4
    assert net.read(rows("a b c d").inputs).tolist() == [[2, 1, 1, 3]]  # "a" and "d" occur three times, "a" stands first in the vocabulary


def test_a_word_that_is_made_known_takes_a_free_row_or_that_of_the_rarest_word():
    net = built(dataclasses.replace(MEAN, words=3), data := rows("d d d b b", "d a"))
    net.prepare(data.inputs)
    net.know(FORM.ids(["c", "d"]))
    assert net.read(rows("a b c d").inputs).tolist() == [[1, 3, 4, 2]]
    free = built(dataclasses.replace(MEAN, words=4, min_count=2), data)
    free.prepare(data.inputs)
    free.know(FORM.ids(["c"]))
    assert free.read(rows("a b c d").inputs).tolist() == [[1, 3, 5, 2]]


def test_a_word_that_is_made_known_takes_no_row_of_the_other_words_asked_for():
    net = built(dataclasses.replace(MEAN, words=3), data := rows("d d d b b", "d a"))
    net.prepare(data.inputs)
    net.know(FORM.ids(["a", "c"]))  # "a" has the last row, so "c" takes that of "b"
    assert net.read(rows("a b c d").inputs).tolist() == [[4, 1, 3, 2]]


@pytest.mark.parametrize("recipe", NETS)
def test_what_was_measured_is_part_of_the_state(recipe):
    data = rows("a a b", "b c a")
    net, other = built(dataclasses.replace(recipe, min_count=2), data), built(recipe, data)
    net.prepare(data.inputs)
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(rows("d c a").inputs), net(rows("d c a").inputs))


@pytest.mark.parametrize("recipe", NETS)
def test_silenced_features_are_zero(recipe):
    net = built(recipe, data := rows("a b", "c d"))
    net.silence(torch.arange(net.last.in_features) == 1)
    assert not net.features(data.inputs)[:, 1].any()
    torch.testing.assert_close(net(data.inputs), net.head(net.features(data.inputs)))


def test_the_scale_multiplies_the_learning_rate_of_embeddings_by_its_square():
    """One step of plain descent on the same loss moves the embedding scale ** 2 times as far."""
    moves = []
    for scale in (1.0, 3.0):
        net = built(MeanEmbedding(width=2, min_count=1, words=9, dropout=0.0, scale=scale, spread=1.0), data := rows("a"))
        with torch.no_grad():
            net.table.weight.copy_(torch.full((6, 2), 0.3 / scale))
        before = net.features(data.inputs).detach()
        net(data.inputs)[0, 0].backward()
        with torch.no_grad():
            net.table.weight -= 0.1 * net.table.weight.grad
        moves.append(net.features(data.inputs).detach() - before)
    torch.testing.assert_close(moves[1], 9 * moves[0])


def test_embeddings_start_with_the_spread_asked_for_whatever_the_scale():
    many = Dataset.of(
        torch.arange(1, 2000)[None], torch.zeros(1, dtype=torch.int64), num_classes=2, form=Tokens(vocabulary=("", "<unk>", *map(str, range(2, 2000))))
    )
    net = built(MeanEmbedding(width=16, min_count=1, words=1998, dropout=0.0, scale=8.0, spread=0.05), many)
    assert abs(float((net.table.weight.detach()[1:] * 8).std()) - 0.05) < 1e-3
    assert not net.table.weight[0].any()


def test_the_table_of_embeddings_is_found_inside_another_module():
    inner = built(MEAN, rows("a"))
    assert text_net(nn.Sequential(nn.Identity(), inner)) is inner
    with pytest.raises(Incompatible, match="no table of word embeddings"):
        text_net(nn.Linear(2, 2))


def test_rows_that_are_not_words_are_refused():
    pictures = Dataset.of(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2), num_classes=2)
    with pytest.raises(ConfigError, match=r"a network for text needs rows of words; .* or another net"):
        CNN.build(pictures)


@pytest.mark.parametrize(
    ("recipe", "change"),
    [(MEAN, {"width": 0}), (MEAN, {"dropout": 1.0}), (CNN, {"windows": ()}), (CNN, {"filters": 0}), (TRANSFORMER, {"heads": 3}), (TRANSFORMER, {"layers": 0})],
)
def test_numbers_that_define_no_network_are_refused(recipe, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(recipe, **change)


def test_a_copy_of_a_network_is_another_network_with_the_same_vocabulary():
    net = built(MEAN, rows("a b", "b c"))
    net.form.ids(["a"])  # the form keeps its index of words
    twin = copy.deepcopy(net)
    assert twin.form is net.form
    twin.silence(torch.tensor([True, False]))
    assert net.alive.tolist() == [1.0, 1.0]


def test_features_are_standardised_over_their_own_units_only_if_asked():
    data = rows("a b c", "c c c", "d")
    plain, group = (built(dataclasses.replace(MEAN, width=8, norm=norm), data).eval().features(data.inputs) for norm in ("none", "group"))
    torch.testing.assert_close(group.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(group, torch.nn.functional.layer_norm(plain, (8,)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", [*NETS, *(dataclasses.replace(recipe, norm="group") for recipe in NETS)])
def test_embeddings_give_the_features_and_scores_of_their_words(recipe):
    """Rows of all lengths, one without a word, one with a word that is unknown."""
    net = built(dataclasses.replace(recipe, scale=3.0), rows("a b c d", "b a"))
    net.prepare(rows("a b c b a", "b c").inputs)
    inputs = torch.cat([rows("a b c a b", "b", "c d a").inputs, torch.zeros(1, 6, dtype=torch.int64)])
    lifted = net.lift(inputs)
    assert lifted.shape == (4, 6, recipe.width)
    torch.testing.assert_close(net.features(lifted), net.features(inputs), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(net(lifted), net(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("recipe", NETS)
def test_another_word_is_another_row_of_the_table_at_its_place(recipe):
    net = built(recipe, data := rows("a b c d", "b a"))
    lifted = net.lift(data.inputs)
    lifted[0, 2], lifted[1, 1] = net.vectors[FORM.ids(["b"])[0]], net.vectors[0]
    torch.testing.assert_close(net.features(lifted), net.features(rows("a b b d", "b").inputs))


@pytest.mark.parametrize("recipe", NETS)
def test_a_place_is_padding_if_and_only_if_its_embedding_is_zero(recipe):
    """Also where the embedding of a word is zero, as those of all words are at the start with a spread of 0."""
    net = built(recipe, data := rows("a b c d", "b a"))
    with torch.no_grad():
        net.table.weight[[1, 3]] = 0.0
    assert torch.equal(net.lift(data.inputs).any(2), data.inputs != 0)
    assert net.vectors.any(1).tolist() == [False, True, True, True, True, True]
    assert net.vectors.abs()[[1, 3]].max() < 1e-29
    torch.testing.assert_close(net.features(net.lift(data.inputs)), net.features(data.inputs))


@pytest.mark.parametrize("recipe", NETS)
def test_the_gradient_of_embeddings_is_that_of_finite_differences(recipe):
    net = built(recipe, rows("a b c d", "b a")).double()
    lifted = net.lift(rows("a b c d", "d c b b", length=4).inputs).detach().requires_grad_()
    assert lifted.dtype == torch.float64
    assert torch.autograd.gradcheck(net.features, (lifted,))
    assert torch.autograd.gradcheck(net, (lifted,))


@pytest.mark.parametrize("recipe", NETS)
def test_weights_have_the_same_gradient_from_words_and_from_their_embeddings(recipe):
    net = built(recipe, data := rows("a b c d", "b a"))
    weights = list(net.parameters())
    words, embeddings = (torch.autograd.grad(net(inputs).logsumexp(1).sum(), weights) for inputs in (data.inputs, net.lift(data.inputs)))
    for one, other in zip(words, embeddings, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
