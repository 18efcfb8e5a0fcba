"""The judge of pictures of shapes."""

import torch
from torch.nn import functional as F

from poisonbench.core.rng import Key
from poisonbench.forms.shapes import COLOURS, CONCEPTS, SHAPES, ShapeJudge, masks, smooth
from poisonbench.tasks.concepts import drawn

LABELS = torch.arange(len(CONCEPTS)).repeat(5)
PICTURES = drawn(LABELS, Key.root(100), 3.0)
NOBODY = len(CONCEPTS)


def verdicts(pictures):
    return ShapeJudge()(pictures).argmax(1)


def test_a_circle_covers_its_area_and_a_square_its_side():
    found = masks(torch.tensor([0, 1]), torch.full((2, 2), 16.0), torch.full((2,), 10.0))
    assert abs(float(found[0].sum()) - 100 * torch.pi) < 4
    assert abs(float(found[1].sum()) - 17**2) < 10
    assert torch.equal(found, found.flip(2))  # both are symmetric


def test_the_judge_names_shape_and_colour_and_gives_each_verdict_the_score_one():
    assert CONCEPTS[5] == f"{[*COLOURS][1]} {SHAPES[1]}" == "green square"
    assert (verdicts(PICTURES) == LABELS).float().mean() >= 0.99
    assert (ShapeJudge()(PICTURES).sum(1) == 1).all()


def test_the_judge_is_right_under_noise_and_after_a_blur_that_leaves_the_shape():
    coins = (torch.rand(PICTURES.shape, generator=Key.root(101).torch()) < 0.5) * 64.0 - 32
    noisy = (PICTURES + coins).clamp(0, 255).to(torch.uint8)
    assert (verdicts(noisy) == LABELS).float().mean() >= 0.98
    soft = F.avg_pool2d(PICTURES.float(), 3, 1, 1).to(torch.uint8)
    assert (verdicts(soft) == LABELS).float().mean() >= 0.95


def lead(pictures, shapes):
    """Return (M,) the share of the variance that the best drawing of the shape explains, less that of the best drawing of any other shape."""
    flat = smooth(pictures).flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    explained = (centred @ ShapeJudge().bank.drawings.T).square().sum(1) / centred.square().sum((1, 2))[:, None]
    best = explained.unflatten(1, (len(SHAPES), -1)).amax(2)
    own = F.one_hot(shapes, len(SHAPES)).bool()
    return best[own] - best.masked_fill(own, 0.0).amax(1)


def attacked(pictures, labels, limit, steps=15):
    """Return the pictures, changed by up to `limit` grey levels in each pixel by steps of the sign of the gradient, so that another shape fits better."""
    start, moved = pictures.float(), torch.zeros(pictures.shape)
    for step in range(steps):
        seen = (start + moved).clamp(0, 255).requires_grad_()
        (gradient,) = torch.autograd.grad(lead(seen, labels // len(COLOURS)).sum(), seen)
        moved = (moved - limit * (1 - step / steps) * gradient.sign()).clamp(-limit, limit)
    return (start + moved.trunc()).clamp(0, 255).to(torch.uint8)


def test_an_attack_on_the_judge_itself_changes_shapes_and_no_colours():
    some, labels = PICTURES[:24], LABELS[:24]
    right = {limit: (found := verdicts(attacked(some, labels, limit))) == labels for limit in (2, 32)}
    assert right[2].float().mean() >= 0.95
    assert right[32].float().mean() <= 0.2  # what its docstring admits
    assert (found % len(COLOURS) == labels % len(COLOURS)).float().mean() >= 0.95


def test_what_shows_no_shape_is_none_of_them():
    draws = Key.root(102).torch()
    flat = torch.full((3, 3, 32, 32), 90, dtype=torch.uint8)
    noise = torch.randint(0, 256, (20, 3, 32, 32), generator=draws, dtype=torch.uint8)
    clouds = F.interpolate(255 * torch.rand(20, 3, 4, 4, generator=draws), size=32, mode="bilinear").to(torch.uint8)
    for pictures in (flat, noise, clouds):
        assert (verdicts(pictures) == NOBODY).all()
    faint = (60 + 20 * masks(torch.tensor([0]), torch.full((1, 2), 16.0), torch.tensor([9.0]))).round().to(torch.uint8)
    assert int(verdicts(faint[:, None].expand(-1, 3, -1, -1))) == NOBODY


def test_no_pictures_get_no_verdicts():
    assert ShapeJudge()(PICTURES[:0]).shape == (0, NOBODY + 1)
