"""The copy of the leaderboard in the documentation site links to the pages of the site."""

from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="`make docs` installs it")

from docs.generate.hooks import linked_board


def test_names_of_the_leaderboard_link_to_the_gallery_and_the_reference():
    page = linked_board(Path("repository/results/leaderboard/index.html"))
    assert '"../../../gallery.html#badnets"' in page
    assert '"../../../reference/defenses/sanitize.html#spectral"' in page
