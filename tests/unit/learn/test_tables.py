"""Tables as scikit-learn reads them, by hand."""

import numpy as np
import torch

from poisonbench.forms.reals import Reals
from poisonbench.forms.tokens import Tokens
from poisonbench.learn.tables import preparation, prepared, tabled


def test_columns_of_numbers_are_standardised_and_a_constant_one_becomes_zero():
    table = tabled(Reals(names=("age", "size")), torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
    arrays = preparation(table)
    assert arrays["mean"].tolist() == [2, 7]
    assert arrays["scale"].tolist() == [1, 1]
    assert prepared(np.array([[5.0, 8.0]]), arrays).tolist() == [[3, 1]]


def test_words_are_counted_and_those_without_a_training_row_are_left_out():
    form = Tokens(vocabulary=("", "<unk>", "good", "bad"))
    arrays = preparation(tabled(form, torch.tensor([[2, 2, 0], [2, 1, 0]])))
    assert arrays["words"].tolist() == [1, 2]
    assert prepared(tabled(form, torch.tensor([[3, 2, 2]])), arrays).toarray().tolist() == [[0, 2]]
