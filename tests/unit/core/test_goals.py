import torch

from attacks.backdoor.triggers import Patch
from poisonbench.core.data import Dataset
from poisonbench.core.goals import Backdoor, NoGoal

PATCH = Patch(pixels=torch.full((1, 1, 1), 255, dtype=torch.uint8), mask=torch.ones(1, 1, dtype=torch.bool), top=0, left=0)


def test_rows_that_already_bear_the_wished_label_are_not_probed():
    test = Dataset.of(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2]), num_classes=3)
    probe = Backdoor(trigger=PATCH, wish=torch.tensor([0, 0, 0])).probe(test)
    assert probe.truth.tolist() == [1, 2, 1, 2]
    assert probe.hit.tolist() == [[True, False, False]] * 4
    assert probe.inputs[:, 0, 0, 0].tolist() == [255] * 4
    assert test.inputs.sum() == 0


def test_all_to_all_probes_every_row_with_its_own_wish():
    test = Dataset.of(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]), num_classes=3)
    probe = Backdoor(trigger=PATCH, wish=torch.tensor([1, 2, 0])).probe(test)
    assert probe.hit.int().argmax(1).tolist() == [1, 2, 0]


def test_no_goal_probes_nothing():
    test = Dataset.of(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]), num_classes=3)
    assert len(NoGoal().probe(test)) == 0
