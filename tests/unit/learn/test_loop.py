import pytest
import torch

from poisonbench.core.errors import Diverged
from poisonbench.learn.loop import run_epochs
from poisonbench.learn.objectives import row_losses


def test_a_training_stops_after_the_first_epoch_with_a_loss_that_is_not_finite():
    losses = torch.zeros(4, 3, 2)  # epochs, steps, members
    losses[2, 1, 1] = losses[2, 2, 0] = torch.nan
    trained = []

    def run_epoch(epoch):
        trained.append(epoch)
        return losses[epoch]

    with pytest.raises(Diverged, match="in epoch 3, step 2 of 3") as error:
        run_epochs(4, run_epoch)
    assert error.value.member == 1
    assert trained == [0, 1, 2]


def test_the_loss_of_a_row_is_the_cross_entropy_with_its_smoothed_label():
    """With smoothing 0.4 and two classes the targets are 0.8 and 0.2."""
    shares = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    losses = row_losses(shares.log(), torch.tensor([0, 1]), 0.4)
    expected = [-torch.tensor(0.5).log(), -0.2 * torch.tensor(0.25).log() - 0.8 * torch.tensor(0.75).log()]
    torch.testing.assert_close(losses, torch.stack(expected))
