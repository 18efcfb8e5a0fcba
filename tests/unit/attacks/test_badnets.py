import dataclasses

import pytest
import torch
from PIL import Image

from attacks.backdoor.badnets import BadNets
from attacks.backdoor.triggers import Patch, drawn, from_file, place
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import File
from poisonbench.core.rng import Key
from poisonbench.core.threat import Budget, Known

PLAIN = BadNets(pattern="white", image=None, size=2, position="bottom_right", margin=0, mapping="all_to_one", target=1, poison_target_class=False)


def known(rate: float, **fields: object) -> Known:
    inputs = torch.full((30, 1, 4, 4), 10, dtype=torch.uint8)
    rows = Dataset.of(inputs, torch.arange(30) % 3, num_classes=3)
    none, writable = rows.take(torch.arange(0)), torch.ones(30, dtype=torch.bool)
    world = Known(rows=rows, writable=writable, budget=Budget(rate=rate), targets=none, public=none, fit=None, tune=None)
    return dataclasses.replace(world, **fields)


def test_a_poisoned_row_holds_the_patch_and_the_target_label_and_nothing_else():
    world = known(0.1)
    poisoned = PLAIN.poison(world, Key.root(0))
    rows = poisoned.mask.nonzero()[:, 0]
    assert len(rows) == 3
    expected = torch.full((4, 4), 10, dtype=torch.uint8)
    expected[2:, 2:] = 255
    for row in rows:
        assert torch.equal(poisoned.data.inputs[row, 0], expected)
    assert (poisoned.data.labels[rows] == 1).all()
    assert (world.rows.labels[rows] != 1).all()


def test_rows_of_a_smaller_rate_are_among_those_of_a_larger_one():
    few, many = (PLAIN.poison(known(rate), Key.root(0)).mask for rate in (0.1, 0.3))
    assert (many | ~few).all()


def test_a_budget_of_zero_leaves_the_data_untouched_and_keeps_the_goal():
    world = known(0.0)
    poisoned = PLAIN.poison(world, Key.root(0))
    assert poisoned.data.digest == world.rows.digest
    assert len(poisoned.goal.probe(world.rows)) == 20


def test_all_to_all_moves_every_label_by_one():
    world = known(0.5)
    poisoned = dataclasses.replace(PLAIN, mapping="all_to_all").poison(world, Key.root(0))
    rows = poisoned.mask
    assert torch.equal(poisoned.data.labels[rows], (world.rows.labels[rows] + 1) % 3)
    assert set(world.rows.labels[rows].tolist()) == {0, 1, 2}


def test_target_rows_are_poisoned_only_when_a_field_says_so():
    with pytest.raises(ConfigError, match="only 20 can be poisoned"):
        PLAIN.poison(known(0.8), Key.root(0))
    poisoned = dataclasses.replace(PLAIN, poison_target_class=True).poison(known(1.0), Key.root(0))
    assert poisoned.mask.all()


def test_only_rows_that_the_attacker_owns_are_poisoned():
    writable = torch.arange(30) < 12
    poisoned = PLAIN.poison(known(0.2, writable=writable), Key.root(0))
    assert not (poisoned.mask & ~writable).any()


@pytest.mark.parametrize(
    ("position", "margin", "corner"),
    [
        ("bottom_right", 0, (2, 2)),
        ("bottom_right", 1, (1, 1)),
        ("top_left", 1, (1, 1)),
        ("top_right", 0, (0, 2)),
        ("bottom_left", 0, (2, 0)),
        ("center", 0, (1, 1)),
    ],
)
def test_the_patch_lies_where_its_position_says(position, margin, corner):
    assert place((1, 4, 4), 2, position, margin) == corner


@pytest.mark.parametrize(("shape", "side", "margin"), [((1, 4, 4), 5, 0), ((1, 4, 4), 4, 1), ((1, 4, 4), 0, 0), ((7,), 2, 0)])
def test_a_patch_that_does_not_fit_is_refused(shape, side, margin):
    with pytest.raises(ConfigError, match="patch"):
        place(shape, side, "bottom_right", margin)


def test_a_checkerboard_stamps_its_black_squares_too():
    pixels, mask = drawn("checkerboard", 1, 2)
    assert pixels[0].tolist() == [[255, 0], [0, 255]]
    stamped = Patch(pixels=pixels, mask=mask, top=0, left=0)(torch.full((1, 1, 2, 2), 9, dtype=torch.uint8))
    assert stamped[0, 0].tolist() == [[255, 0], [0, 255]]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_trigger_from_a_file_leaves_transparent_pixels_alone(tmp_path, channels):
    picture = Image.new("RGBA", (2, 2), (200, 200, 200, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "trigger.png")
    pixels, mask = from_file(File(str(tmp_path / "trigger.png")), channels, (2, 2))
    assert mask.tolist() == [[True, False], [True, True]]
    assert pixels.shape == (channels, 2, 2)
    assert (pixels[:, mask] == 200).all()


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "trigger.png").write_text("no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        from_file(File(str(tmp_path / "trigger.png")), 1, (2, 2))


@pytest.mark.parametrize("target", [-1, 3])
def test_a_target_that_is_no_class_is_refused(target):
    with pytest.raises(ConfigError, match=r"attack\.data\.target"):
        dataclasses.replace(PLAIN, target=target).poison(known(0.1), Key.root(0))
