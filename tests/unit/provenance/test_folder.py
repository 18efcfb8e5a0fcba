"""What a folder contains, and how it differs from a list, on cases worked by hand."""

import os

import pytest

from poisonbench.core.errors import DataError
from poisonbench.provenance.folder import Differences, contents, differences

LISTED = {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize(("found", "differ"), [
    ({"a": "1", "b": "2", "c": "3"}, Differences()),
    ({"a": "9", "b": "2", "c": "3"}, Differences(changed={"a": ""})),
    ({"a": "2", "b": "2", "c": "3"}, Differences(changed={"a": "b"})),
    ({"b": "2", "c": "3"}, Differences(removed=("a",))),
    ({"a": "1", "b": "2", "c": "3", "d": "4"}, Differences(added=("d",))),
    ({"a": "1", "b": "2", "c": "3", "d": "1"}, Differences(added=("d",))),
    ({"z": "1", "b": "2", "c": "3"}, Differences(renamed=(("a", "z"),))),
    ({"a": "2", "b": "1", "c": "3"}, Differences(swapped=(("a", "b"),))),
    ({"a": "2", "b": "3", "c": "1"}, Differences(changed={"a": "b", "b": "c", "c": "a"})),
])  # fmt: skip
def test_each_difference_has_its_own_heading(found, differ):
    assert differences(LISTED, found) == differ


def test_files_with_equal_bytes_are_paired_once():
    listed = {"a": "1", "b": "1", "c": "2", "d": "2", "x": "3", "y": "3"}
    found = {"a": "2", "b": "1", "c": "1", "d": "2", "z": "3"}
    assert differences(listed, found) == Differences(swapped=(("a", "c"),), renamed=(("x", "z"),), removed=("y",))


def test_a_hundred_thousand_changed_files_take_seconds_and_not_hours():
    count = 100_000
    listed = {f"{place:06}": str(place) for place in range(count)}
    differ = differences(listed, {name: str(place ^ 1) for place, name in enumerate(listed)})
    assert len(differ.swapped) == count // 2


def test_hidden_files_count_and_links_are_listed_but_not_followed(tmp_path):
    root = tmp_path / "data"
    (root / "below" / ".deep").mkdir(parents=True)
    for name in ("b", "below/.deep/a", ".hidden", "apart"):
        (root / name).write_text("x")
    (root / "link").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    found = contents(root, apart=[root / "below" / ".." / "apart"])
    assert found.files == (".hidden", "b", "below/.deep/a")
    assert found.special == ("link", "pipe")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is no folder"):
        contents(tmp_path / name)
