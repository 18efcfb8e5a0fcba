"""The gallery has a picture of every attack that changes rows, and a command that makes it."""

import shlex

import pytest

from docs.generate.pictures import FOLDER, changes_rows, pictures
from poisonbench.commands.described import option, origin
from poisonbench.config.compose import tree_of
from poisonbench.config.vocabulary import options

PICTURES = pictures()
DRAWN = sorted(name for name, picture in PICTURES.items() if picture.words)


@pytest.mark.parametrize("name", options("attack"))
def test_an_attack_that_changes_rows_is_in_the_gallery(name):
    found = option("attack", name)
    assert (name in PICTURES) == (changes_rows(found) and origin(found) is None)


@pytest.mark.parametrize("name", DRAWN)
def test_the_command_of_a_picture_composes_with_its_attack_and_a_seed_for_choosing(name):
    words = shlex.split(PICTURES[name].words)
    assert f"attack={name}" in words
    assert tree_of(words)["seed"] >= 100


def test_every_entry_has_a_picture_or_names_one_and_says_what_it_shows():
    for name, picture in PICTURES.items():
        assert picture.sees
        assert bool(picture.words) != bool(picture.like)
        assert name in DRAWN or picture.like in DRAWN


def test_the_folder_has_the_pictures_of_the_gallery_and_no_other():
    assert sorted(path.stem for suffix in ("png", "txt") for path in FOLDER.glob(f"*.{suffix}")) == DRAWN
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in FOLDER.glob("*.png"))
