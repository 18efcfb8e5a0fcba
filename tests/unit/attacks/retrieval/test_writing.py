import pytest
import torch

from attacks.retrieval.writing import Aim, claims, restated, whole
from poisonbench.core.errors import ConfigError
from tests.unit.attacks.retrieval.worlds import A, B, C, D, P, Q, X, Y, Z, questions, row

AIMS = questions(((A, B), 1, 2, [], [(P, Y), (Q, Y, Y)]), ((C,), 1, 3, [], [(P, Z), (Q, Z)]))


def test_a_claim_for_another_answer_has_its_words_in_place_of_the_wished_ones():
    assert restated([P, Y, Q, Y], [Y], [Z, X]) == [P, Z, X, Q, Z, X]
    assert restated([P, Y, Z, Q], [Y, Z], [X]) == [P, X, Q]
    assert restated([P, Q], [Y], [X]) == []
    assert restated([P, Q], [Y], [Y]) == [P, Q]
    aim = Aim(targets=AIMS, wish=torch.tensor([3, 2]))
    assert claims(aim, 2).tolist() == [[row(P, Z), row(Q, Z, Z)], [row(P, Y), row(Q, Y)]]


def test_a_claim_without_the_wished_words_is_left_out_for_another_answer():
    aims = questions(((A,), 1, 2, [], [(P, Q), (P, Y)]))
    assert claims(Aim(targets=aims, wish=torch.tensor([3])), 1).tolist() == [[row(P, Z)]]
    with pytest.raises(ConfigError, match="a question has 1 texts"):
        claims(Aim(targets=aims, wish=torch.tensor([3])), 2)


def test_parts_are_joined_without_gaps():
    one, other = torch.tensor([[row(A, B), row()]]), torch.tensor([[row(C), row(D)]])
    assert whole(one, other).tolist() == [[row(A, B, C), row(D)]]
    assert whole(one[:, :0], other[:, :0]).shape == (1, 0, 8)
