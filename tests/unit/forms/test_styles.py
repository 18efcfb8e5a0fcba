"""The judge of styles of drawing."""

import torch
from torch.nn import functional as F

from poisonbench.core.rng import Key
from poisonbench.forms.styles import CELL, STYLES, SUBJECTS, StyleJudge, covers
from poisonbench.tasks.styles import styled

LABELS = torch.arange(len(STYLES)).repeat_interleave(32)
PICTURES = styled(LABELS, torch.arange(16).repeat(8), Key.root(100), 3.0)
FILLED, STRIPED, BARRED, CHECKED = range(4)


def verdicts(pictures):
    return StyleJudge()(pictures).argmax(1)


def test_patterns_cover_half_of_a_square_and_bars_are_stripes_turned():
    square = torch.full((4,), SUBJECTS.index("red square"))
    found = covers(torch.arange(4), square, torch.full((4, 2), 16.0), torch.full((4,), 10.0))  # 7.5 to 24.5 in both directions
    assert float(found[FILLED].sum()) == 16**2 + 4 * 16 / 2 + 4 / 2  # pixels on the edge and in the corners count half
    assert torch.equal(found[BARRED], found[STRIPED].T)
    inner = found[:, 8:24, 8:24].sum((1, 2))  # whole cells
    assert inner[[FILLED, CHECKED]].tolist() == [256, 128]
    assert float(inner[STRIPED]) == 16 * len({8, 12, 13, 14, 18, 19, 20})  # rows of a stripe from 8 to 23
    assert torch.equal(found[CHECKED, 8 : 8 + CELL, 8 : 8 + CELL], torch.ones(CELL, CELL))
    assert not found[CHECKED, 8 : 8 + CELL, 8 + CELL : 8 + 2 * CELL].any()


def test_the_judge_names_the_style_under_noise_and_after_a_blur():
    coins = (torch.rand(PICTURES.shape, generator=Key.root(101).torch()) < 0.5) * 64.0 - 32
    noisy = (PICTURES + coins).clamp(0, 255).to(torch.uint8)
    soft = F.avg_pool2d(PICTURES.float(), 3, 1, 1).to(torch.uint8)
    for pictures, least in ((PICTURES, 1.0), (soft, 0.98), (noisy, 0.98)):
        assert (verdicts(pictures) == LABELS).float().mean() >= least
    assert (StyleJudge()(PICTURES).sum(1) == 1).all()


def test_what_shows_no_style_is_none_of_them():
    draws = Key.root(102).torch()
    flat = torch.full((3, 3, 32, 32), 90, dtype=torch.uint8)
    noise = torch.randint(0, 256, (20, 3, 32, 32), generator=draws, dtype=torch.uint8)
    clouds = F.interpolate(255 * torch.rand(20, 3, 4, 4, generator=draws), size=32, mode="bilinear").to(torch.uint8)
    for pictures in (flat, noise, clouds):
        assert (verdicts(pictures) == len(STYLES)).all()
    assert StyleJudge()(PICTURES[:0]).shape == (0, len(STYLES) + 1)
