import torch

from defenses.sanitize.near_copies import NearCopies
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
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
