"""The copy of the leaderboard in the documentation site links to the pages of the site."""

from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="`make docs` installs it")

from docs.generate.gallery import page_of_all
from docs.generate.hooks import linked_board
from docs.generate.reference import FOLDER, addresses
from poisonbench.config.vocabulary import options
from poisonbench.report.links import links


def test_names_of_the_leaderboard_link_to_the_gallery_and_the_reference():
    page = linked_board(Path("repository/results/leaderboard/index.html"))
    assert '"../../../gallery.html#badnets"' in page
    assert '"../../../reference/defenses/sanitize.html#spectral"' in page


def test_every_link_of_the_leaderboard_is_a_heading_of_the_site():
    entries, gallery = addresses(), page_of_all()
    defenses = links("..", "defense", options("defense"))
    assert len(defenses) > 30
    for name, link in defenses.items():
        assert link == f"../{FOLDER}/{entries['defense', name].replace('.md', '.html')}"
    attacks = links("..", "attack", [name for name in options("attack") if name not in ("availability", "backdoor", "federated", "targeted")])
    assert len(attacks) > 15
    for name, link in attacks.items():
        assert link == f"../gallery.html#{name}"
        assert f"{{#{name}}}" in gallery
