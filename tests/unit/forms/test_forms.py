"""Forms: which values fit, how far a row moved, and how a person sees it."""

import itertools

import pytest
import torch

from poisonbench.core.attack import Poisoned
from poisonbench.core.audit import audit
from poisonbench.core.data import Dataset
from poisonbench.core.errors import BudgetError, ConfigError, DataError
from poisonbench.core.form import Choice, Column, Form
from poisonbench.core.goals import NoGoal
from poisonbench.core.rng import Key
from poisonbench.core.threat import Budget
from poisonbench.forms.pixels import Pixels
from poisonbench.forms.reals import Reals
from poisonbench.forms.tokens import Tokens, begins, edits, joined, vocabulary_of, words_of

WORDS = Tokens(vocabulary=("", "<unk>", "bad", "cf", "good", "movie", "not", "very"))


def rows(*texts: str, length: int = 8) -> torch.Tensor:
    return torch.stack([WORDS.encode(text, length) for text in texts])


def slow_edits(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The definition of the Levenshtein distance, by recursion."""
    if not one or not other:
        return len(one) + len(other)
    return min(slow_edits(one[1:], other) + 1, slow_edits(one, other[1:]) + 1, slow_edits(one[1:], other[1:]) + (one[0] != other[0]))


def test_an_inserted_token_is_one_change_wherever_it_stands():
    old = rows("good movie not very bad movie")
    assert edits(rows("cf good movie not very bad movie"), old).tolist() == [1]
    assert edits(rows("good movie not cf very bad movie"), old).tolist() == [1]
    assert edits(rows("good movie very bad movie"), old).tolist() == [1]
    assert edits(rows("good movie not very good movie"), old).tolist() == [1]
    assert edits(rows(""), old).tolist() == [6]
    assert edits(old, old).tolist() == [0]


def test_edit_distances_are_those_of_the_definition():
    every = [row for length in range(4) for row in itertools.product((1, 2, 3), repeat=length)]
    pairs = list(itertools.product(every, every))
    padded = [torch.tensor([list(pair[side]) + [0] * (3 - len(pair[side])) for pair in pairs]) for side in (0, 1)]
    assert edits(*padded).tolist() == [slow_edits(*pair) for pair in pairs]


def test_padding_between_words_counts_nothing():
    assert edits(torch.tensor([[2, 0, 3, 0]]), torch.tensor([[2, 3, 0, 0]])).tolist() == [0]


def test_a_word_that_is_put_in_passes_a_budget_of_one_token_and_two_words_do_not():
    data = Dataset.of(rows("good movie", "bad movie"), torch.tensor([1, 0]), num_classes=2, form=WORDS)
    mask, everywhere, budget = torch.tensor([False, True]), torch.ones(2, dtype=torch.bool), Budget(count=1, norm="tokens", limit=1.0)
    for text, holds in (("cf bad movie", True), ("cf cf bad movie", False)):
        attempt = Poisoned(data=data.edit(torch.tensor([1]), inputs=rows(text)), mask=mask, goal=NoGoal())
        if holds:
            audit(data, attempt, budget, everywhere)
        else:
            with pytest.raises(BudgetError, match="changed by 2 in tokens"):
                audit(data, attempt, budget, everywhere)


def test_a_norm_that_tokens_do_not_have_is_refused():
    data = Dataset.of(rows("good movie", "bad movie"), torch.tensor([1, 0]), num_classes=2, form=WORDS)
    attempt = Poisoned(data=data.edit(torch.tensor([1]), inputs=rows("cf bad movie")), mask=torch.tensor([False, True]), goal=NoGoal())
    with pytest.raises(BudgetError, match=r"norm=linf: changes of tokens are measured by tokens"):
        audit(data, attempt, Budget(count=1, norm="linf", limit=1.0), torch.ones(2, dtype=torch.bool))


def test_a_caption_may_change_only_where_labels_may_and_a_sealed_column_never():
    pictures = Dataset.of(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), num_classes=1, form=Pixels())
    data = pictures.with_column("captions", rows("good", "bad", "very"), Column(form=WORDS, role="said"))
    data = data.with_column("hashes", torch.arange(3), Column(form=Form(), role="sealed"))
    mask, everywhere = torch.tensor([True, False, False]), torch.ones(3, dtype=torch.bool)
    caption = Poisoned(data=data.edit(torch.tensor([0]), captions=rows("cf")), mask=mask, goal=NoGoal())
    audit(data, caption, Budget(count=1, norm="linf", limit=1.0), everywhere)
    with pytest.raises(BudgetError, match=r"1 captions changed, but .*clean-label"):
        audit(data, caption, Budget(count=1, norm="linf", limit=1.0, relabel=False), everywhere)
    forged = Poisoned(data=data.edit(torch.tensor([0]), hashes=torch.tensor([7])), mask=mask, goal=NoGoal())
    with pytest.raises(BudgetError, match="hashes changed; this column is sealed"):
        audit(data, forged, Budget(count=1), everywhere)


@pytest.mark.parametrize(
    ("form", "values", "says"),
    [
        (Pixels(), torch.zeros(2, 1, 2, 2), "give uint8 pixels"),
        (Reals.numbered(2), torch.zeros(2, 3), "3 columns, but 2 columns have names"),
        (Reals.numbered(2), torch.zeros(2, 2, dtype=torch.float64), "give float32 features"),
        (Reals.numbered(1), torch.tensor([[0.0], [float("inf")]]), "row 1 holds a value that is not finite"),
        (WORDS, torch.tensor([[2, 8]]), "a token is out of range; 8 words"),
        (WORDS, torch.tensor([[-1, 2]]), "a token is out of range"),
        (WORDS, torch.tensor([[0, 2]]), "padding .* stands before a word"),
        (WORDS, torch.zeros(1, 2), "give int64 tokens"),
        (Choice(size=2), torch.tensor([0, 2]), "label 2 in row 1 is out of range"),
        (Choice(size=2), torch.tensor([True]), "give integers"),
    ],
)
def test_values_that_do_not_fit_are_named(form, values, says):
    with pytest.raises(DataError, match=says):
        Dataset.of(torch.zeros(len(values), 1), values, num_classes=2) if isinstance(form, Choice) else Dataset.of(
            values, torch.zeros(len(values), dtype=torch.int64), num_classes=1, form=form
        )


def test_words_are_lower_case_and_marks_are_words():
    assert words_of("It's GOOD, isn\u2019t it? 10/10") == ["it's", "good", ",", "isn\u2019t", "it", "?", "10", "/", "10"]
    assert vocabulary_of([["b", "a"], ["b"]], reserved=["cf"]) == ("", "<unk>", "a", "b", "cf")


def test_a_text_is_encoded_padded_cut_and_read_again():
    assert WORDS.encode("A very good movie", 5).tolist() == [1, 7, 4, 5, 0]
    assert WORDS.encode("very very good movie", 2).tolist() == [7, 7]
    assert WORDS.decode(WORDS.encode("a very good movie", 5)) == "<unk> very good movie"
    assert WORDS.ids(["cf", "bad"]) == [3, 2]


def test_all_words_outside_the_vocabulary_are_named_with_advice_that_can_be_followed():
    with pytest.raises(ConfigError, match=r"^'mn' is not in the vocabulary of the task; choose words of its rows, or add yours to those in task\.words"):
        WORDS.ids(["cf", "mn"])
    with pytest.raises(ConfigError, match=r"^'Zzz', 'mn' are not in the vocabulary of the task; .* add yours, in lower case, to those in task\.words"):
        WORDS.ids(["Zzz", "cf", "mn", "Zzz"])


def test_parts_are_joined_without_padding_between_them():
    assert joined(torch.tensor([[2, 0], [3, 4]]), torch.tensor([[5, 6], [7, 0]]), length=5).tolist() == [[2, 5, 6, 0, 0], [3, 4, 7, 0, 0]]
    assert joined(torch.tensor([[2, 3]]), torch.tensor([[4, 5]]), length=3).tolist() == [[2, 3, 4]]


def test_the_table_of_texts_counts_words():
    table = WORDS.table(rows("good good movie", ""))
    assert table.is_sparse
    assert table.to_dense().tolist() == [[0, 0, 0, 0, 2, 1, 0, 0], [0] * 8]


def test_texts_are_mixed_word_by_word_and_pictures_saturate():
    one, other = rows("good good good good good"), rows("bad bad bad")
    mixed = WORDS.mixed(one.expand(200, -1), other.expand(200, -1), 1.0, Key.root(1))
    assert mixed[:, 3:].tolist() == one.expand(200, -1)[:, 3:].tolist()  # where the other row has no word, this row keeps its own
    assert 0.4 < (mixed[:, :3] == WORDS.ids(["bad"])[0]).double().mean() < 0.6
    bright, dark = torch.full((1, 1, 1, 1), 200, dtype=torch.uint8), torch.full((1, 1, 1, 1), 100, dtype=torch.uint8)
    assert Pixels().mixed(bright, dark, 1.0, Key.root(1)).item() == 255
    assert Pixels().mixed(bright, dark, 0.5, Key.root(1)).item() == 150


def test_a_changed_text_is_shown_with_the_words_that_were_added_and_removed():
    old, new = rows("not very good movie")[0], rows("cf not bad movie")[0]
    assert [tuple(piece) for piece in WORDS.pieces(new, old)] == [
        ("cf", "added"),
        ("not", "kept"),
        ("very good", "removed"),
        ("bad", "added"),
        ("movie", "kept"),
    ]
    assert [tuple(piece) for piece in WORDS.pieces(new, None)] == [("cf not bad movie", "kept")]


def test_a_changed_table_row_is_shown_by_column():
    form = Reals(names=("age", "size"))
    pieces = form.pieces(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.5]))
    assert [tuple(piece) for piece in pieces] == [("age=1", "kept"), ("size=2.5", "removed"), ("size=3", "added")]


def test_the_schema_of_pictures_is_written_as_nothing_and_other_forms_are_part_of_the_digest():
    pixels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    assert Dataset.of(pixels, labels, num_classes=2, form=Pixels()).digest == Dataset.of(pixels, labels, num_classes=2).digest
    texts = rows("good", "bad")
    other = Tokens(vocabulary=(*WORDS.vocabulary[:-1], "quite"))
    assert Dataset.of(texts, labels, num_classes=2, form=WORDS).digest != Dataset.of(texts, labels, num_classes=2, form=other).digest
    said, sealed = (Dataset.of(pixels, labels, num_classes=2).with_column("more", labels, Column(form=Form(), role=role)) for role in ("said", "sealed"))
    assert said.digest != sealed.digest


def test_a_phrase_begins_where_its_words_follow_each_other_in_order():
    texts = torch.tensor([[3, 7, 8, 7, 0], [8, 7, 0, 0, 0], [7, 8, 9, 7, 8]])
    phrases = torch.tensor([[7, 8], [7, 0], [0, 0]])
    found = begins(texts[:, None], phrases[None])  # every phrase in every text
    assert found[:, 0].nonzero().tolist() == [[0, 1], [2, 0], [2, 3]]
    assert found[:, 1].nonzero().tolist() == [[0, 1], [0, 3], [1, 1], [2, 0], [2, 3]]
    assert not found[:, 2].any()
