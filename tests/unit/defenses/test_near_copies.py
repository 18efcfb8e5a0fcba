import torch

from defenses.sanitize.near_copies import NearCopies
from poisonbench.core.data import Dataset
from poisonbench.core.form import Column
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens, vocabulary_of
from poisonbench.runner.pipeline import run


def test_the_later_copy_is_dropped_and_one_with_another_label_is_the_most_suspicious():
    inputs = torch.tensor([[1.0], [2.0], [1.0], [3.0], [2.0]])
    data = Dataset.of(inputs, torch.tensor([0, 1, 0, 1, 0]), num_classes=2)
    verdict = NearCopies().judge(data, means=None, rng=Key.root(0))
    assert verdict.keep.tolist() == [True, True, False, True, False]
    assert verdict.suspicion.tolist() == [0, 0, 1, 0, 2]
    assert verdict.evidence["twin"].tolist() == [-1, -1, 0, -1, 1]


def test_it_runs_as_a_defense_on_any_form(tiny, store):
    assert run(tiny("defense=near_copies"), store).status == "done"
    assert run(tiny("defense=near_copies", "attack=none", "task=sentiment", "task.rows=90", "learner=text", "learner.epochs=1"), store).status == "done"


FORM = Tokens(vocabulary=vocabulary_of([["a", "b", "c", "d", "e", "f", "g", "h"]]))


def asked(rows):
    prompts, responses = ([FORM.encode(row[place], 6) for row in rows] for place in (0, 1))
    data = Dataset.of(torch.stack(prompts), torch.zeros(len(rows), dtype=torch.int64), num_classes=1, form=FORM)
    return data.with_column("response", torch.stack(responses), Column(form=FORM, role="said"))


def test_a_prompt_and_its_response_are_compared_together():
    data = asked([("a b c", "d e f"), ("a b c", "f g h"), ("a b c", "d e f"), ("h g f", "d e f")])
    verdict = NearCopies().judge(data, means=None, rng=Key.root(0))
    assert verdict.keep.tolist() == [True, True, False, True]
    assert verdict.evidence["twin"].tolist() == [-1, -1, 0, -1]


def test_columns_that_nobody_can_write_are_left_out_of_the_comparison():
    data = asked([("a b c", "d"), ("a b c", "d")]).with_column("sealed", torch.tensor([[2, 3, 4], [5, 6, 7]]), Column(form=FORM, role="sealed"))
    assert NearCopies().judge(data, means=None, rng=Key.root(0)).keep.tolist() == [True, False]
