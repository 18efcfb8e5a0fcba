"""The reader that counts passages."""

import torch

from poisonbench.core.form import Form
from poisonbench.retrieval.support import SILENCE, Support, contained

ANSWERS = torch.tensor([[0, 0], [7, 0], [8, 9]])  # none of them, one word, two words


def test_an_answer_is_in_a_text_where_its_words_stand_together_and_in_order():
    texts = torch.tensor([[3, 7, 0, 0], [8, 9, 4, 0], [9, 8, 4, 0], [8, 4, 9, 0], [4, 4, 4, 8], [0, 0, 0, 0]])
    assert contained(texts, ANSWERS).tolist() == [
        [False, True, False],
        [False, False, True],
        [False, False, False],
        [False, False, False],
        [False, False, False],
        [False, False, False],
    ]


def test_each_group_counts_its_own_passages():
    passages = torch.tensor([[[[3, 7, 0], [8, 9, 7]], [[5, 5, 0], [0, 0, 0]]]])  # one question, two groups of two
    read = Support().read(torch.tensor([[3, 0, 0]]), passages, ANSWERS[None], Form())
    assert read.allclose(torch.tensor([[[SILENCE, 2, 1], [SILENCE, 0, 0]]]))
    assert read.argmax(2).tolist() == [[1, 0]]


def test_a_text_shorter_than_the_answer_does_not_contain_it():
    assert not contained(torch.tensor([[8]]), torch.tensor([[8, 9]])).any()
