"""The gradient of a retrained linear model, against retraining: scikit-learn's own solvers on rows that are standardised anew."""

import dataclasses

import numpy as np
import pytest
import torch

from attacks.availability.gradient_canceling import corrupted
from attacks.convex import Box, Points, Scale, Training
from poisonbench.core.convex import LinearModel, LogisticLoss, SquaredHinge, hinge, signs
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.learn.tables import preparation, prepared
from tests.unit.attacks.worlds import world

LOSSES = {"logistic": (LogisticLoss(), 0.0), "svm": (SquaredHinge(), 1.0)}


def table(rows: int = 60, columns: int = 3) -> Dataset:
    draws = Key.root(100).numpy()
    labels = torch.arange(rows) % 2
    values = torch.from_numpy(draws.normal(size=(rows, columns))) * torch.tensor([1.0, 40.0, 0.1][:columns]) + labels[:, None]
    return Dataset.of(values.float(), labels, num_classes=2)


def problem(kind: str, rows: Dataset, C: float = 0.7) -> Training:
    loss, penalty = LOSSES[kind]
    none = torch.zeros(rows.inputs.shape[1], dtype=torch.float64)
    model = LinearModel(weights=none, bias=0.0, mean=none, scale=none + 1, loss=loss, C=C, bias_penalty=penalty)
    return Training(clean=Points(points=Scale.of(rows).points(rows.inputs), signs=signs(rows.labels)), model=model)


def poison(rows: Dataset, count: int = 3) -> Points:
    return Points(points=Scale.of(rows).points(rows.inputs[:count]) * 0.8 + 0.1, signs=-signs(rows.labels[:count]))


def retrained(kind: str, rows: Dataset, added: Points, C: float = 0.7) -> np.ndarray:
    """Return the function that scikit-learn learns from the raw rows and the poison, as (D + 1,) parameters on the fixed scale."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    scale = Scale.of(rows)
    raw = torch.cat([rows.inputs.double(), added.points * scale.unit + scale.centre]).numpy()
    answers = np.concatenate([rows.labels.numpy(), (added.signs > 0).long().numpy()])
    arrays = preparation(raw)
    model = {
        "logistic": LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000),
        "svm": LinearSVC(C=C, dual=False, tol=1e-12, max_iter=100000),
    }[kind].fit(prepared(raw, arrays), answers)
    slopes = model.coef_[0] / arrays["scale"]
    return np.append(slopes * scale.unit.numpy(), model.intercept_[0] + slopes @ (scale.centre.numpy() - arrays["mean"]))


@pytest.mark.parametrize("kind", LOSSES)
def test_the_attackers_solver_learns_what_the_victim_learns(kind):
    rows = table()
    added = poison(rows)
    np.testing.assert_allclose(problem(kind, rows).solved(added).numpy(), retrained(kind, rows, added), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_gradient_is_that_of_the_loss_of_the_retrained_model(kind):
    rows, step = table(), 1e-4
    training, added = problem(kind, rows), poison(rows)
    theta = training.solved(added)
    gradient = training.risen(theta, added, training.pull(theta, training.clean))

    def damage(points: torch.Tensor) -> float:
        return float(training.damage(torch.from_numpy(retrained(kind, rows, added.moved(points))), training.clean))

    for row, column in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)):
        shift = torch.zeros_like(added.points)
        shift[row, column] = step
        difference = (damage(added.points + shift) - damage(added.points - shift)) / (2 * step)
        assert gradient[row, column] == pytest.approx(difference, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_gradient_goes_through_the_standardisation(kind):
    """What is left out if the columns' deviations are held fixed is no rounding error."""
    rows = table()
    training, added = problem(kind, rows, C=0.01), poison(rows)
    theta = training.solved(added)
    whole = training.risen(theta, added, training.pull(theta, training.clean))
    mean, variance = training.moments(added)

    class Fixed(Training):
        def moments(self, added):
            return mean, variance

    fixed = Fixed(clean=training.clean, model=training.model).risen(theta, added, training.pull(theta, training.clean))
    assert (whole - fixed).abs().max() > 0.05 * whole.abs().max()


@pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()])
def test_a_loss_and_its_derivatives_agree(loss):
    margins = torch.linspace(-3, 3, 40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss.value, margins)
    (slope,) = torch.autograd.grad(loss.value(margins).sum(), margins, create_graph=True)
    torch.testing.assert_close(slope, loss.slope(margins))
    (curvature,) = torch.autograd.grad(slope.sum(), margins)
    torch.testing.assert_close(curvature, loss.curvature(margins).detach())


@pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()])
def test_the_mean_hinge_loss_is_below_its_bound_and_may_come_near_it(loss):
    draws = Key.root(0).torch()
    for _ in range(200):
        margins = 3 * torch.randn(5, generator=draws, dtype=torch.float64)
        assert hinge(margins).mean() <= loss.hinge(float(loss.value(margins).mean())) + 1e-12
    near = torch.full((5,), -0.612, dtype=torch.float64)
    assert hinge(near).mean() == pytest.approx(loss.hinge(float(loss.value(near).mean())), rel=1e-3)


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_anywhere_make_the_corrupted_parameters_the_solution(kind):
    """With a wide box, gradient canceling drives the gradient to zero, and retraining finds the parameters that it wanted."""
    from attacks.availability.gradient_canceling import GradientCanceling

    rows = table()
    training = problem(kind, rows)
    starts = poison(rows, 12)
    clean = training.solved(starts.take(torch.arange(0)))
    wanted = corrupted(training, clean, 0.25 * float(clean.norm()), 20)
    assert (wanted - clean).norm() == pytest.approx(0.25 * float(clean.norm()))
    assert training.damage(wanted, training.clean) > training.damage(clean, training.clean)
    wide = Box(low=torch.full_like(starts.points, -30.0), high=torch.full_like(starts.points, 30.0))
    attack = GradientCanceling(radii=(0.25,), ascent=20, steps=500, labels="flipped")
    points = attack.canceled(training, wanted, starts, wide)
    assert training.gradient(wanted, starts).norm() > 1
    assert training.gradient(wanted, starts.moved(points)).norm() < 1e-3
    np.testing.assert_allclose(retrained(kind, rows, starts.moved(points)), wanted.numpy(), atol=1e-3)


def test_inputs_return_to_their_type_within_the_box():
    pixels = torch.randint(40, 200, (30, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    scale = Scale.of(Dataset.of(pixels, torch.arange(30) % 2, num_classes=2))
    assert torch.equal(scale.inputs(scale.points(pixels), pixels), pixels)
    assert torch.equal(scale.inputs(scale.points(pixels) + 100, pixels)[0], pixels.amax(0))


def test_a_limit_of_the_threat_narrows_the_box():
    rows = table()
    scale = Scale.of(rows)
    starts = scale.points(rows.inputs[:5])
    box = Box.around(starts, scale, world(rows, norm="linf", limit=0.05))
    moved = scale.inputs(box.clamped(starts + 100), rows.inputs[:5])
    assert (moved - rows.inputs[:5]).abs().max() <= 0.0501
    with pytest.raises(ConfigError, match=r"norm=l2"):
        Box.around(starts, scale, world(rows, norm="l2", limit=0.05))


def test_a_constant_column_is_left_out_and_keeps_its_value():
    rows = table()
    with_constant = rows.edit(torch.arange(len(rows)), inputs=torch.cat([rows.inputs[:, :2], torch.full((len(rows), 1), 7.0)], 1))
    scale = Scale.of(with_constant)
    points = scale.points(with_constant.inputs)
    assert points.shape == (60, 2)
    assert scale.inputs(points, with_constant.inputs)[:, 2].unique().tolist() == [7.0]


def test_a_column_that_is_constant_among_the_rest_keeps_its_scale():
    """The learner divides a constant column by 1, and so does the attacker's penalty."""
    rows = table()
    training, added = problem("logistic", rows), poison(rows)
    flat = dataclasses.replace(training, clean=training.clean.moved(training.clean.points * torch.tensor([1.0, 1.0, 0.0])))
    same = added.moved(added.points * torch.tensor([1.0, 1.0, 0.0]))
    assert flat.moments(same)[1][2] == 1
    assert abs(float(flat.solved(same)[2])) < 1e-9
