"""The filter of rare n-grams, by hand, and the words of whole rows."""

import math

import pytest
import torch

from defenses.sanitize.perplexity import Perplexity
from defenses.sanitize.rare_ngrams import RareNgrams, grams, rarity
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Column
from poisonbench.core.rng import Key
from poisonbench.forms.ngram import Ngrams
from poisonbench.forms.tokens import Tokens
from poisonbench.forms.words import whole_rows

FORM = Tokens(vocabulary=("", "<unk>", "a", "b", "c", "d"))
A, B, C, D = range(2, 6)


def texts(*rows: list[int], **columns: list[list[int]]) -> Dataset:
    data = Dataset.of(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64), num_classes=2, form=FORM)
    for name, values in columns.items():
        data = data.with_column(name, torch.tensor(values), Column(form=FORM, role="sealed" if name == "sealed" else "said"))
    return data


ROWS = texts([A, B, A, B], [A, B, C, 0], [A, B, C, D], [D, 0, 0, 0])


def test_the_rarity_of_a_row_is_that_of_its_rarest_n_grams():
    """Of four rows three have "ab", one "ba", two "bc", one "cd"; the last row has one word, which no other row is."""
    ab, ba, bc, cd = (math.log(4 / rows) for rows in (3, 1, 2, 1))
    assert rarity(ROWS, 2, 1).tolist() == pytest.approx([ba, bc, cd, math.log(4)])
    assert rarity(ROWS, 2, 2).tolist() == pytest.approx([(ab + ba) / 2, (ab + bc) / 2, (bc + cd) / 2, math.log(4)])
    assert rarity(ROWS, 2, 9).tolist() == pytest.approx([(ab + ba) / 2, (ab + bc) / 2, (ab + bc + cd) / 3, math.log(4)])


def test_what_a_row_repeats_counts_once():
    assert rarity(texts([A, B, A, B], [C, D, 0, 0]), 1, 4).tolist() == pytest.approx([math.log(2)] * 2)


def test_n_grams_end_with_the_text():
    keys, real = grams(ROWS.inputs, 2, len(FORM.vocabulary))
    assert real.sum(1).tolist() == [3, 2, 3, 1]
    assert keys[3, 0] == D * len(FORM.vocabulary)
    assert not grams(torch.zeros(1, 3, dtype=torch.int64), 2, 6)[1].any()


def test_as_many_rows_are_dropped_as_expected():
    told = RareNgrams(order=2, rarest=1, expected_rate=0.25, margin=2.0).judge(ROWS, None, Key.root(0))
    assert told.keep.tolist() == [False, True, False, True]  # three rows are equally rare; the first two go
    with pytest.raises(ConfigError, match="all 4 rows"):
        RareNgrams(order=2, rarest=1, expected_rate=0.5, margin=2.0).judge(ROWS, None, Key.root(0))


def test_the_words_of_a_row_are_those_of_all_columns_that_a_writer_can_change():
    rows = texts([A, B, 0], [C, 0, 0], response=[[D, 0], [A, B]], sealed=[[C, C], [C, C]])
    assert whole_rows(rows).tolist() == [[A, B, D, 0, 0], [C, A, B, 0, 0]]
    assert torch.equal(whole_rows(ROWS), ROWS.inputs)


def test_a_strange_response_to_a_usual_prompt_is_suspicious():
    rows = texts(*[[A, B]] * 8, response=[[C, D]] * 7 + [[D, D]])
    assert int(rarity(rows, 2, 1).argmax()) == 7
    trusted = texts(*[[A, B]] * 30, response=[[C, D]] * 30)
    told = Perplexity(order=2, quantile=1.0).judge(rows, Means(trusted=trusted, fit=None, tune=None, truth=None), Key.root(0))
    assert told.keep.tolist() == [True] * 7 + [False]
    model = Ngrams.of(whole_rows(trusted), 2, len(FORM.vocabulary))
    torch.testing.assert_close(told.suspicion, model.perplexity(whole_rows(rows)).float())


@pytest.mark.parametrize("fields", [{"order": 0}, {"rarest": 0}, {"margin": -1.0}, {"expected_rate": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        RareNgrams(**{"order": 2, "rarest": 1, "expected_rate": 0.1, "margin": 1.0, **fields})


def test_n_grams_that_are_no_numbers_of_64_bits_are_refused():
    with pytest.raises(ConfigError, match="do not fit in 64 bits"):
        rarity(ROWS, 40, 1)
