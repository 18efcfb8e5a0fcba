import torch

from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.delta import Delta
from poisonbench.core.goals import NoGoal


def test_subtracting_and_adding_gives_back_edited_and_injected_rows():
    clean = Dataset.of(torch.randint(0, 255, (5, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8), torch.arange(5) % 2, num_classes=2)
    data = clean.edit(torch.tensor([3]), labels=torch.tensor([0])).append(clean.take(torch.tensor([1])).edit(torch.tensor([0]), ids=torch.tensor([-1])))
    mask = torch.tensor([False, False, False, True, False, True])
    delta = Delta.between(clean, Poisoned(data=data, mask=mask, goal=NoGoal(), origins=torch.tensor([1])))
    assert delta.rows.tolist() == [3]
    back = delta.apply(clean)
    assert back.data.digest == data.digest
    assert back.origins.tolist() == [1]
    assert torch.equal(back.mask, mask)
