"""Copies of pictures in the benchmark of hashes: each change does what its name says, and shares are counted right."""

import numpy as np
import torch

from benchmarks import hashes
from benchmarks._options import Options
from poisonbench.core.rng import Key


def soft(count, size=32):
    """Pictures of soft random shapes, in colour."""
    coarse = torch.rand(count, 3, 5, 5, generator=Key.root(100).torch())
    return (torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1) * 200).to(torch.uint8)


def test_a_patch_changes_its_own_corner_only():
    picture = torch.zeros(1, 8, 8, dtype=torch.uint8)
    corners = {name: change(picture)[0] for name, change in hashes.CHANGES.items() if name.startswith("patch")}
    assert [int((painted == 255).sum()) for painted in corners.values()] == [9] * 4
    assert corners["patch top right"][:3, 5:].eq(255).all()
    assert corners["patch bottom left"][5:, :3].eq(255).all()
    assert not picture.any()


def test_light_shift_and_jpeg_by_hand():
    picture = torch.tensor([[[0, 100, 250]]], dtype=torch.uint8)
    assert hashes.lighter(picture).tolist() == [[[0, 110, 255]]]
    assert hashes.shifted(picture).tolist() == [[[250, 0, 100]]]
    colour = soft(1)[0]
    assert hashes.pressed(colour).shape == colour.shape
    assert 0 < (hashes.pressed(colour).int() - colour.int()).abs().float().mean() < 10


def test_the_closest_earlier_hash_by_hand():
    bits = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=bool)
    assert hashes.closest_before(bits).tolist() == [5, 4, 1, 0]


def test_a_hash_that_tells_rows_apart_finds_equal_copies_and_names_no_more_rows_than_allowed():
    pictures = soft(70)
    found = hashes.by_hash(torch.cat([pictures, pictures]), 10, hashes.HASHES["phash 16x16"])
    assert set(found.recall.values()) == {1.0}
    assert found.false <= hashes.FALSE
    blind = hashes.by_hash(torch.cat([pictures, pictures]), 10, lambda picture: hashes.imagehash.ImageHash(np.zeros((1, 1), dtype=bool)))
    assert blind.false == 69 / 70  # all but the first row


def test_a_copy_of_another_row_is_not_counted_as_found():
    pictures = soft(70)
    assert set(hashes.by_form(torch.cat([pictures, pictures]), 10).recall.values()) == {1.0}
    assert set(hashes.by_form(torch.cat([pictures, pictures.flip(0)]), 10).recall.values()) == {0.0}


def test_every_hash_is_measured_on_the_digits_and_the_limit_of_near_copies_at_this_size_is_stated():
    told = list(hashes.measure(Options(), rows=210, copies=20))
    assert [each.alternative for each in told] == [f"imagehash {name}" for name in hashes.HASHES]
    assert {each.facts["ours light"] for each in told} == {1.0}
    assert all(each.facts["ours patch top left"] < 0.2 for each in told)
    assert all("shift" in each.note and min(*each.ours_cost, *each.alternative_cost) > 0 for each in told)
