import pytest
import torch

from poisonbench.core.attack import Poisoned
from poisonbench.core.audit import audit
from poisonbench.core.data import Dataset
from poisonbench.core.errors import BudgetError
from poisonbench.core.goals import Degrade
from poisonbench.core.threat import Budget
from poisonbench.forms.pixels import Pixels, changed_pixels


def test_a_pixel_that_changes_in_several_channels_counts_once():
    one = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    other = one.clone()
    other[1, :, 2, 3] = 255
    other[2, 0, 0, 0] = 1
    other[2, 2, 0, 1] = 1
    assert changed_pixels(one, other).tolist() == [0.0, 1.0, 2.0]


def test_the_referee_counts_pixels():
    rows = Dataset.of(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), num_classes=2, form=Pixels())
    budget, everywhere = Budget(rate=1.0, norm="pixels", limit=1.0, relabel=False), torch.ones(2, dtype=torch.bool)
    edited = rows.inputs.clone()
    edited[:, :, 1, 1] = 9
    audit(rows, Poisoned(data=rows.edit(torch.arange(2), inputs=edited), mask=everywhere, goal=Degrade()), budget, everywhere)
    edited[0, 1, 0, 0] = 9
    with pytest.raises(BudgetError, match="pixels"):
        audit(rows, Poisoned(data=rows.edit(torch.arange(2), inputs=edited), mask=everywhere, goal=Degrade()), budget, everywhere)
