"""Availability attacks on pictures, each against a closed form, brute force or a case worked by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from attacks.availability.adversarial_poison import AdversarialPoison
from attacks.availability.autoregressive import Autoregressive, responses
from attacks.availability.convolution import Convolution, filtered
from attacks.availability.error_minimizing import ErrorMinimizing
from attacks.availability.linear_separable import LinearSeparable, vertices
from attacks.availability.noise import normal, pixel_gradient, scaled, shifted, whole
from attacks.availability.one_pixel import OnePixel, shortcuts
from attacks.availability.pil import Pil, classifier, gradient
from attacks.availability.robust_error_minimizing import RobustErrorMinimizing, worst_change
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from tests.unit.attacks.worlds import images, world

LIMIT = 8.0
LINF = {"rate": 1.0, "norm": "linf", "limit": LIMIT, "relabel": False}
TAP = AdversarialPoison(aim="next", steps=1, step_size=2.0)
AR = Autoregressive(candidates=1000, bound=5.0, response=3.0)
REM = RobustErrorMinimizing(radius=0.5, ascents=5, draws=1, shift=0, steps=1, step_size=1.0, turns=1, epochs=1)
PIL = Pil(steps=40, step_size=0.1, obfuscation=1.0, penalty=0.001)


class Linear:
    """A linear surrogate for 8x8 grey pictures, in float64."""

    def __init__(self, kinds: int = 3) -> None:
        self.weights = 0.01 * torch.randn(64, kinds, generator=Key.root(5).torch(), dtype=torch.float64)

    def lift(self, inputs):
        return inputs.double()

    def __call__(self, inputs):
        return inputs.flatten(1) @ self.weights

    @property
    def module(self):
        return self


def moved(poisoned, rows):
    return poisoned.data.inputs.double() - rows.inputs.double()


@pytest.mark.parametrize("aim", ["next", "away"])
def test_one_long_step_of_tap_on_a_linear_model_is_the_sign_of_the_closed_form(aim):
    rows, linear = images(), Linear()
    poisoned = AdversarialPoison(aim=aim, steps=1, step_size=2.0).poison(world(rows, fit=lambda data: linear, **LINF), Key.root(0))
    start = (LIMIT * normal(Key.root(0).child("start"), rows.ids, 64).float().view(rows.inputs.shape)).clamp(-LIMIT, LIMIT)
    wish = (rows.labels + 1) % 3 if aim == "next" else rows.labels
    slope = (linear(rows.inputs + start.double()).softmax(1) - F.one_hot(wish, 3)) @ linear.weights.T
    expected = LIMIT * slope.sign() * (-1 if aim == "next" else 1)
    assert torch.equal(moved(poisoned, rows).flatten(1), expected)
    assert torch.equal(poisoned.data.labels, rows.labels)
    assert poisoned.goal == Degrade()


def test_tap_makes_a_linear_model_answer_the_next_class():
    rows, linear = images(), Linear()
    poisoned = AdversarialPoison(aim="next", steps=20, step_size=0.2).poison(world(rows, fit=lambda data: linear, **{**LINF, "limit": 64.0}), Key.root(0))
    assert torch.equal(linear(poisoned.data.inputs.double()).argmax(1), (rows.labels + 1) % 3)


def test_the_noise_of_lsp_alone_shows_the_label_to_a_linear_model():
    rows = images(rows=800, kinds=4)
    noise = whole(LinearSeparable(patches=4, separation=10.0).noise(rows, 255.0, Key.root(0)), 255.0).flatten(1)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(noise[:400].numpy(), rows.labels[:400].numpy())
    assert model.score(noise[400:].numpy(), rows.labels[400:].numpy()) == 1.0  # of 16 numbers a row, so 400 rows cannot be learned by heart


def test_the_patches_of_lsp_are_flat_and_its_length_is_the_limit():
    rows = images()
    noise = LinearSeparable(patches=4, separation=10.0).noise(rows, 100.0, Key.root(0))
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((30,), 100.0, dtype=torch.float64))
    assert torch.equal(noise, noise[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_vertices_differ_and_are_refused_beyond_their_number():
    assert sorted(vertices(8, 3, Key.root(0)).tolist()) == [list(bits) for bits in itertools.product((0.0, 1.0), repeat=3)]
    assert len(vertices(1000, 30, Key.root(0)).unique(dim=0)) == 1000
    with pytest.raises(ConfigError, match="2 patterns for 3 classes"):
        LinearSeparable(patches=1, separation=10.0).poison(world(images(), rate=1.0, norm="l2", limit=255.0), Key.root(0))


def test_whole_grey_levels_never_exceed_the_limit():
    half = torch.tensor([[0.6, 0.6], [0.9, 0.1], [3.0, 4.0]]).view(3, 1, 1, 2)
    assert whole(half[:2], 1.0).flatten(1).tolist() == [[0.0, 0.0], [1.0, 0.0]]  # (1, 1) is longer than 1
    assert whole(half[2:], 5.0).flatten(1).tolist() == [[3.0, 4.0]]
    noise = scaled(torch.randn(50, 3, 16, 16, generator=Key.root(0).torch()), 60.0)
    lengths = whole(noise, 60.0).flatten(1).norm(dim=1)
    assert lengths.max() <= 60
    assert lengths.min() > 58


def test_every_inner_value_of_autoregressive_noise_follows_the_recursion_of_its_class():
    rows = images(rows=12, side=10)
    noise, processes = AR.noise(rows, 255.0, Key.root(0)), AR.processes((1, 10, 10), 3, Key.root(0))
    for number, label in enumerate(rows.labels.tolist()):
        for row, column in itertools.product(range(2, 10), repeat=2):
            window = [(noise[number, 0, row - 2 + down, column - 2 + across] * processes[label, 0, down, across]) for down in range(3) for across in range(3)]
            assert math.isclose(sum(window), noise[number, 0, row, column], rel_tol=1e-9, abs_tol=1e-9)
    assert not processes[:, :, 2, 2].any()
    torch.testing.assert_close(processes.sum((2, 3)), torch.ones(3, 1, dtype=torch.float64))
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((12,), 255.0, dtype=torch.float64))
    assert len(noise.unique(dim=0)) == 12


def test_the_filter_of_a_process_is_silent_on_its_own_noise_alone():
    rows = images(rows=30, side=16)
    noise, processes = AR.noise(rows, 1.0, Key.root(0)), AR.processes((1, 16, 16), 3, Key.root(0))
    for number, label in enumerate(rows.labels.tolist()):
        answers = [responses(processes[other], noise[number]) for other in range(3)]
        assert answers[label] < 1e-9
        assert sorted(answers)[1] > 0.1


def test_autoregressive_processes_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match="raise candidates or lower response"):
        Autoregressive(candidates=20, bound=5.0, response=1000.0).poison(world(images(), rate=1.0, norm="l2", limit=255.0), Key.root(0))


def colourful(rows: int = 12, kinds: int = 2) -> Dataset:
    pixels = torch.randint(0, 256, (rows, 3, 4, 4), generator=Key.root(3).torch()).to(torch.uint8)
    pixels[:, :, 1, 2] = torch.tensor([250, 20, 240], dtype=torch.uint8)[:, None].T  # steady in both classes: the corner (0, 255, 0) is far away
    return Dataset.of(pixels, torch.arange(rows) % kinds, num_classes=kinds)


def best_pair(rows: Dataset, label: int, taken: set) -> tuple:
    """Return the pixel and the colour with the largest score, by brute force."""
    mine, found = rows.inputs[rows.labels == label].numpy().astype(float), {}
    for row, column, colour in itertools.product(range(4), range(4), itertools.product((0, 255), repeat=3)):
        apart = np.abs(np.array(colour) - mine[:, :, row, column])
        if (row, column, colour) not in taken:
            found[row, column, colour] = apart.mean() / apart.std()
    return max(found, key=found.get)


def test_the_shortcut_pixels_are_those_of_a_brute_force_search():
    rows, taken = colourful(), set()
    expected = rows.inputs.clone()
    for label in range(2):
        row, column, colour = best_pair(rows, label, taken)
        taken.add((row, column, colour))
        expected[rows.labels == label, :, row, column] = torch.tensor(colour, dtype=torch.uint8)
    assert len(taken) == 2
    poisoned = OnePixel().poison(world(rows, rate=1.0, norm="pixels", limit=1.0, relabel=False), Key.root(0))
    assert torch.equal(poisoned.data.inputs, expected)


def test_several_shortcut_pixels_of_a_class_are_different_pixels():
    rows = colourful()
    assert ((shortcuts(rows, 3) != rows.inputs).any(1).flatten(1).sum(1) <= 3).all()
    steady = shortcuts(rows, 3)[rows.labels == 0]
    assert int((steady == steady[:1]).all(0).all(0).sum()) == 3  # the one that was steady before is among them


def test_a_filter_is_applied_as_by_hand():
    picture = torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 60.0], [70.0, 80.0, 90.0]])
    rows = Dataset.of(torch.stack([picture, picture]).view(2, 1, 3, 3).to(torch.uint8), torch.tensor([0, 1]), num_classes=2)
    filters = torch.stack([torch.zeros(3, 3), torch.tensor([[0.0, 0.2, 0.0], [0.1, 1.0, 0.0], [0.0, 0.0, 0.0]])])
    filters[0, 0, 0] = 1.0  # takes the value up and to the left
    blurred = [[10, 21, 32], [42, 58, 71], [78, 97, 110]]  # value + 0.2 above + 0.1 left
    first, second = filtered(rows, filters)[:, 0]
    assert first.tolist() == [[0, 0, 0], [0, 51, 102], [0, 204, 255]]  # 10, 20, 40, 50 times 255 / 50
    assert second.tolist() == [[round(255 * value / 110) for value in line] for line in blurred]


def test_filters_have_one_weight_of_one_and_a_black_picture_stays_black():
    filters = Convolution(size=3, blur=0.3).filters(5, Key.root(0)).flatten(1)
    assert ((filters == 1).sum(1) == 1).all()
    assert (filters.sort(1).values[:, :-1] <= 0.3).all()
    black = Dataset.of(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), num_classes=2)
    assert not filtered(black, filters.view(5, 3, 3)).any()


def test_the_gradient_of_pil_is_that_of_its_loss():
    generator = Key.root(0).torch()
    pixels, weights = torch.rand(5, 7, generator=generator, dtype=torch.float64), torch.randn(7, 3, generator=generator, dtype=torch.float64)
    noise, labels = torch.rand(5, 7, generator=generator, dtype=torch.float64).requires_grad_(), torch.tensor([0, 1, 2, 0, 1])
    uniform = torch.full((5, 3), 1 / 3, dtype=torch.float64)
    loss = F.cross_entropy(noise @ weights, labels, reduction="sum") + 0.7 * F.cross_entropy((pixels - noise) @ weights, uniform, reduction="sum")
    torch.testing.assert_close(gradient(pixels, noise.detach(), labels, weights, 0.7), torch.autograd.grad(loss, noise)[0])


@pytest.mark.parametrize("kinds", [2, 3])
def test_the_classifier_of_pil_reads_the_label_from_the_noise_that_was_subtracted(kinds):
    rows = images(rows=60, kinds=kinds)
    noise = -moved(PIL.poison(world(rows, **LINF), Key.root(0)), rows)
    assert noise.abs().max() <= LIMIT
    scores = noise.flatten(1).float() @ classifier(rows, PIL.penalty)
    assert scores.shape == (60, kinds)
    assert torch.equal(scores.argmax(1), rows.labels)


def test_the_gradient_through_a_shifted_and_mirrored_view_is_checked_in_float64():
    rows, linear, draws = images(rows=4), Linear(), torch.tensor([[0.0, 0.9, 0.2], [0.5, 0.5, 0.7], [0.9, 0.1, 0.6], [0.3, 0.6, 0.1]])
    noise = torch.zeros(4, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    found = pixel_gradient(linear, rows, noise.detach(), lambda moved: shifted(moved, draws, 2))

    def loss(noise):
        return F.cross_entropy(linear(shifted(rows.inputs.double() + noise, draws, 2)), rows.labels, reduction="sum")

    assert torch.autograd.gradcheck(loss, noise)
    torch.testing.assert_close(found, torch.autograd.grad(loss(noise), noise)[0])


def test_a_shift_moves_the_picture_and_fills_with_zeros():
    picture = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    assert shifted(picture, torch.tensor([[0.0, 0.0, 0.9]]), 1).flatten().tolist() == [0, 0, 0, 1]
    assert shifted(picture, torch.tensor([[0.9, 0.5, 0.9]]), 1).flatten().tolist() == [3, 4, 0, 0]
    assert shifted(picture, torch.tensor([[0.5, 0.5, 0.1]]), 0).flatten().tolist() == [2, 1, 4, 3]


def test_the_worst_change_on_two_classes_is_the_corner_of_the_ball():
    rows, linear = images(kinds=2), Linear(2)
    found = worst_change(linear, rows.inputs.double(), rows.labels, 3.0, 5)
    towards = (linear.weights[:, 1] - linear.weights[:, 0]).sign() * torch.where(rows.labels == 0, 1, -1)[:, None]
    torch.testing.assert_close(found.flatten(1), 3.0 * towards)


def test_robust_noise_on_two_classes_is_the_corner_that_helps_the_label():
    rows, linear = images(kinds=2), Linear(2)
    poisoned = REM.poison(world(rows, tune=lambda victim, data, epochs: linear, **LINF), Key.root(0))
    draws = Key.root(0).child("turn/0").child("step/0").child("draw/0").per_row(rows.ids, draws=3)
    towards = (linear.weights[:, 0] - linear.weights[:, 1]).sign().float() * torch.where(rows.labels == 0, 1, -1)[:, None]
    seen = LIMIT * towards.view(rows.inputs.shape)
    expected = shifted(seen, draws, 0)  # mirrored back: the surrogate sees mirrored rows
    assert torch.equal(moved(poisoned, rows), expected.double())


def test_the_surrogate_of_robust_noise_is_trained_on_worst_changes():
    rows, linear, seen = images(kinds=2), Linear(2), []

    def tune(victim, data, epochs):
        seen.append(data)
        return linear

    poisoned = RobustErrorMinimizing(**{**vars(REM), "turns": 2}).poison(world(rows, tune=tune, **LINF), Key.root(0))
    assert torch.equal(seen[0].inputs, rows.inputs)
    towards = (linear.weights[:, 1] - linear.weights[:, 0]).sign() * torch.where(rows.labels == 0, 1, -1)[:, None]
    first = REM.poison(world(rows, tune=lambda victim, data, epochs: linear, **LINF), Key.root(0))
    torch.testing.assert_close(seen[1].inputs.double(), first.data.inputs.double() + 4.0 * towards.view(rows.inputs.shape))
    assert moved(poisoned, rows).abs().max() == LIMIT


def test_steps_of_less_than_a_grey_level_add_up_over_the_turns():
    rows, linear = images(kinds=2), Linear(2)
    slow = RobustErrorMinimizing(**{**vars(REM), "radius": 0.0, "ascents": 0, "step_size": 0.1, "turns": 20})
    poisoned = slow.poison(world(rows, tune=lambda victim, data, epochs: linear, rate=1.0, norm="linf", limit=4.0), Key.root(0))
    assert moved(poisoned, rows).abs().max() == 4.0


NEEDS = {
    "norm=linf": (TAP, REM, PIL, ErrorMinimizing(noise="sample", steps=1, step_size=0.1, turns=1, epochs=1, stop_error=0.0)),
    "norm=l2": (AR, LinearSeparable(patches=4, separation=10.0)),
    "norm=pixels": (OnePixel(),),
}


@pytest.mark.parametrize(("norm", "attack"), [(norm, attack) for norm, attacks in NEEDS.items() for attack in attacks], ids=str)
def test_a_budget_without_the_limit_or_with_a_limit_of_zero_is_refused(norm, attack):
    with pytest.raises(ConfigError, match=norm):
        attack.poison(world(images(), rate=1.0), Key.root(0))
    with pytest.raises(ConfigError, match="limit=0 allows no change"):
        attack.poison(world(images(), rate=1.0, norm=norm.partition("=")[2], limit=0.0), Key.root(0))


def test_half_a_pixel_is_refused():
    with pytest.raises(ConfigError, match=r"limit=0\.5 allows no change of whole grey levels or pixels"):
        OnePixel().poison(world(images(), rate=1.0, norm="pixels", limit=0.5), Key.root(0))


def test_a_filter_is_refused_where_changes_are_limited():
    with pytest.raises(ConfigError, match="changes whole pictures"):
        Convolution(size=3, blur=0.3).poison(world(images(), **LINF), Key.root(0))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (AdversarialPoison, {"aim": "next", "steps": 0, "step_size": 0.1}),
        (LinearSeparable, {"patches": 0, "separation": 10.0}),
        (Autoregressive, {"candidates": 10, "bound": 0.0, "response": 3.0}),
        (Convolution, {"size": 2, "blur": 0.3}),
        (Pil, {"steps": 1, "step_size": 0.1, "obfuscation": -1.0, "penalty": 0.1}),
        (RobustErrorMinimizing, {**vars(REM), "draws": 0}),
    ],
)
def test_fields_out_of_range_are_refused(kind, fields):
    with pytest.raises(ConfigError, match=r"attack\.data"):
        kind(**fields)
