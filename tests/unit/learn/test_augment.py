import torch

from poisonbench.core.rng import Key
from poisonbench.learn import augment


def test_a_crop_is_a_shift_with_zeros_coming_in():
    image = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, 4, 4)
    draws = torch.tensor([[0.99, 0.5]])  # two rows down, no column: padding of 2 makes five shifts of -2 to 2
    expected = torch.cat([image[:, :, 2:], torch.zeros(1, 1, 2, 4, dtype=torch.uint8)], dim=2)
    assert torch.equal(augment.crop(image, draws, 2), expected)
    assert torch.equal(augment.crop(image, torch.tensor([[0.5, 0.5]]), 2), image)


def test_crops_reach_every_shift_equally_often():
    marked = torch.zeros(5000, 1, 5, 5, dtype=torch.uint8)
    marked[:, :, 2, 2] = 1
    draws = Key.root(0).per_row(torch.arange(5000), draws=2)
    counts = augment.crop(marked, draws, 2).sum((0, 1))
    assert counts.sum() == 5000
    assert ((counts.float() - 200) ** 2 / 200).sum() < 51.2  # 99.9 % quantile of chi-square at 24 degrees of freedom


def test_a_flip_mirrors_columns_for_draws_below_one_half():
    images = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    flipped = augment.flip(images, torch.tensor([[0.49], [0.5]]))
    assert torch.equal(flipped[0], images[0].flip(2))
    assert torch.equal(flipped[1], images[1])


def test_a_cutout_erases_one_square_that_the_border_may_cut():
    images = torch.ones(2, 3, 4, 4, dtype=torch.uint8)
    cut = augment.cutout(images, torch.tensor([[0.5, 0.5], [0.0, 0.0]]), 2)
    assert (cut[0, 0] == 0).nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert (cut[1, 0] == 0).nonzero().tolist() == [[0, 0]]
    assert torch.equal(cut[:, 0], cut[:, 2])
