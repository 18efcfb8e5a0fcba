"""Links of README, CONTRIBUTING and docs/ lead to files and headings that exist, in the repository as on the site."""

import re
from functools import cache
from pathlib import Path

import pytest

from docs.generate.links import Link, as_page, copied, for_the_site, links, target
from poisonbench.core.plugins import HOME

PAGES = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(HOME)) for path in sorted((HOME / "docs").rglob("*.md")))]
GENERATED = ("docs/reference/", "docs/gallery.md", "docs/contributing.md")  # built by `make docs`, which checks links to them


@cache
def headings(path: str) -> frozenset[str]:
    """The anchors of a Markdown file as code hosts make them: lower case, spaces to hyphens, no punctuation."""
    lines = re.sub(r"^```.*?^```", "", (HOME / path).read_text(), flags=re.DOTALL | re.MULTILINE).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if re.match(r"#+ ", line)]
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


def broken(source: str, text: str) -> list[str]:
    return [link.written for link in links(text) if not leads_somewhere(source, link)]


def leads_somewhere(source: str, link: Link) -> bool:
    path = target(source, link)
    if path.startswith(GENERATED):
        return source.startswith("docs/")  # a reader of the repository has no such file
    return (HOME / path).exists() and (not link.anchor or link.anchor in headings(path))


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading(page):
    assert broken(page, (HOME / page).read_text()) == []


@pytest.mark.parametrize("link", ["nowhere.md", "docs/results.md#nowhere", "docs/reference/index.md", "../outside.md"])
def test_a_link_that_leads_nowhere_is_found(link):
    assert broken("README.md", f"See [this]({link}).") == [link]


def test_code_and_addresses_of_the_web_are_no_relative_links():
    assert list(links("`[a](b.md)`, [c](https://example.org/d.md)\n\n```\n[e](f.md)\n```\n")) == []


def test_links_in_tables_and_pictures_are_links():
    assert [link.written for link in links("| a |\n|---|\n| [b](c.md#d) |\n\n![e](f.png)\n")] == ["c.md#d", "f.png"]


def test_a_link_to_a_file_of_the_repository_leads_to_its_copy_on_the_site():
    text = "[code](../../poisonbench/core/threat.py), [guide](run.md#a), [start](../../README.md), [how](../../CONTRIBUTING.md#an-attack)"
    site = "[code](../repository/poisonbench/core/threat.py.md), [guide](run.md#a), [start](../index.md), [how](../contributing.md#an-attack)"
    assert for_the_site(text, "docs/guide/sweep.md", "guide/sweep.md") == site
    assert list(copied(text, "docs/guide/sweep.md")) == ["poisonbench/core/threat.py"]


def test_a_link_to_a_folder_stays_as_text_unless_the_folder_is_a_page():
    text = "[records](../results/records) and [board](../results/leaderboard)"
    assert for_the_site(text, "docs/results.md", "results.md") == "records and [board](repository/results/leaderboard/index.html)"
    assert "results/leaderboard/index.html" in set(copied(text, "docs/results.md"))


def test_a_link_from_the_top_of_the_repository_leads_to_the_page():
    assert for_the_site("[t](docs/threat_model.md#a)", "CONTRIBUTING.md", "contributing.md") == "[t](threat_model.md#a)"


def test_a_file_of_the_repository_is_shown_whole_whatever_fences_it_has(tmp_path):
    shown = as_page("CONTRIBUTING.md")
    assert (Path(HOME) / "CONTRIBUTING.md").read_text().rstrip() in shown
    assert "````text" in shown
