import pytest
import torch

from defenses.train.augmentations import (
    OPERATIONS,
    brightened,
    contrasted,
    plasma,
    posterized,
    rotated,
    sharpened,
    shuffled,
    solarized,
    spread,
    stretched,
    trivially_augmented,
)
from defenses.train.ueraser import EraserStep, Hardest, seen
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import Pixels
from poisonbench.learn.objectives import CROSS_ENTROPY
from poisonbench.runner.pipeline import run

NONE, FULL, HALF = (torch.full((1, 1, 1, 1), value) for value in (0.0, 1.0, 0.5))


def pictures(rows: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 3, 8, 8), generator=Key.root(1).torch()).float()


class Bright:
    """Losses that grow with the mean brightness of a row: the negative cross-entropy is not needed to know the hardest view."""

    def __init__(self):
        self.seen = []

    def __call__(self, network, batch, label_smoothing):
        self.seen.append(batch.inputs)
        return batch.inputs.mean((1, 2, 3))


def batch(inputs: torch.Tensor) -> Batch:
    return Batch(inputs=inputs, labels=torch.zeros(len(inputs), dtype=torch.int64), ids=torch.arange(len(inputs)), form=Pixels())


def moment(epoch: int) -> Moment:
    return Moment(module=torch.nn.Identity(), plan=Plan(rows=6, epochs=10, steps=1, shape=(3, 8, 8)), epoch=epoch, step=epoch, rng=Key.root(0))


def test_each_row_is_trained_on_its_view_with_the_largest_loss():
    inputs, rng, bright = pictures(), Key.root(0), Bright()
    losses = Hardest(inner=bright, views=4, rng=rng)(torch.nn.Identity(), batch(inputs), 0.0)
    views = torch.stack([seen(inputs, rng.child(str(number))) for number in range(4)])
    best = views.mean((2, 3, 4)).argmax(0)
    assert len(best.unique()) > 1
    assert torch.equal(bright.seen[-1], views[best, torch.arange(6)])
    assert torch.equal(losses, views.mean((2, 3, 4)).max(0).values)


def test_the_gradient_is_that_of_the_hardest_views_alone():
    inputs, rng, linear = pictures(), Key.root(0), torch.nn.Linear(192, 2)
    with torch.no_grad():
        linear.weight.copy_(0.01 * torch.randn(2, 192, generator=Key.root(4).torch()))

    def network(inputs):
        return linear(inputs.flatten(1))

    losses = Hardest(inner=CROSS_ENTROPY, views=3, rng=rng)(network, batch(inputs), 0.0)
    every = torch.stack([CROSS_ENTROPY(network, batch(seen(inputs, rng.child(str(number)))), 0.0) for number in range(3)])
    torch.testing.assert_close(losses, every.max(0).values)
    torch.testing.assert_close(torch.autograd.grad(losses.sum(), linear.weight)[0], torch.autograd.grad(every.max(0).values.sum(), linear.weight)[0])


def test_after_its_share_of_the_epochs_one_view_is_drawn():
    step = EraserStep(views=5, maximise=0.3)
    assert [step.objective(CROSS_ENTROPY, moment(epoch)).views for epoch in (0, 2, 3, 9)] == [5, 5, 1, 1]
    bright = Bright()
    step.objective(bright, moment(9))(torch.nn.Identity(), batch(pictures()), 0.0)
    assert len(bright.seen) == 1


def test_plasma_is_smooth_and_spans_zero_to_one():
    field = plasma((4, 16, 16), torch.full((4,), 0.3), Key.root(0).torch())
    assert field.amin((2, 3)).tolist() == [[0.0]] * 4
    assert field.amax((2, 3)).tolist() == [[1.0]] * 4
    rough = plasma((4, 16, 16), torch.full((4,), 0.99), Key.root(0).torch())
    assert field.diff(dim=3).abs().mean() < 0.7 * rough.diff(dim=3).abs().mean()


def test_light_and_contrast_follow_the_field():
    inputs, field = torch.full((1, 1, 1, 3), 100.0), torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    assert brightened(inputs, field, torch.tensor([0.2])).flatten().tolist() == [49.0, 100.0, 151.0]
    assert contrasted(inputs, field).flatten().tolist() == [127.5, 72.5, 17.5]


def test_shuffled_channels_are_the_same_channels():
    inputs = pictures(40)
    changed = shuffled(inputs, Key.root(0).torch())
    assert torch.equal(changed.flatten(2).sum(2).sort(1).values, inputs.flatten(2).sum(2).sort(1).values)
    assert not torch.equal(changed, inputs)


def test_operations_without_strength_keep_the_picture():
    inputs = pictures(1)
    for operation in OPERATIONS[2:]:  # the first two have no strength
        torch.testing.assert_close(operation(inputs, NONE).clamp(0, 255), inputs, atol=1e-3, rtol=0)


def test_operations_of_known_strength():
    ramp = torch.tensor([50.0, 100.0, 150.0]).view(1, 1, 1, 3)
    assert stretched(ramp, NONE).flatten().tolist() == [0.0, 127.5, 255.0]
    assert posterized(ramp, FULL).flatten().tolist() == [48.0, 96.0, 144.0]  # steps of 16
    assert solarized(ramp, HALF).flatten().tolist() == [50.0, 100.0, 105.0]  # from 128 on
    torch.testing.assert_close(spread(ramp, -FULL).flatten(), torch.tensor([95.0, 100.0, 105.0]))
    flat = torch.full((1, 1, 4, 4), 80.0)
    torch.testing.assert_close(sharpened(flat, FULL), flat)
    square = torch.zeros(1, 1, 9, 9)
    square[0, 0, 4, 4] = 90.0
    assert rotated(square, FULL)[0, 0, 4, 4] == 90.0  # the centre stays


def test_a_shift_by_half_of_the_side_moves_half_of_the_picture_out():
    picture = torch.arange(1.0, 5.0).expand(1, 1, 4, 4)
    right, down = OPERATIONS[-2](picture, FULL), OPERATIONS[-1](picture, -FULL)
    torch.testing.assert_close(right[0, 0, 0], torch.tensor([3.0, 4.0, 0.0, 0.0]))
    torch.testing.assert_close(down[0, 0, :, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_every_operation_is_drawn_and_pixels_stay_in_range():
    inputs = pictures(200)
    changed = trivially_augmented(inputs, Key.root(0).torch())
    assert changed.min() >= 0
    assert changed.max() <= 255
    which = torch.randint(0, len(OPERATIONS), (200,), generator=Key.root(0).torch())
    assert len(which.unique()) == len(OPERATIONS) == 12


def test_training_on_hard_views_still_learns(tiny, store):
    assert run(tiny("defense=ueraser", "learner.epochs=12"), store).metrics["c_acc"] > 0.6


def test_what_cannot_be_augmented_is_refused():
    with pytest.raises(ConfigError, match="views=0"):
        EraserStep(views=0, maximise=0.3)
    with pytest.raises(Incompatible, match="augments pictures"):
        EraserStep(views=5, maximise=0.3).check(torch.nn.Identity(), Plan(rows=6, epochs=10, steps=1, shape=(64,)))
