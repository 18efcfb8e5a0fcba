"""The leaderboard as a reader has it: tabs by keyboard, width, contrast, links. A page around it looks into it in a real browser."""

import dataclasses
import html
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from poisonbench.core.errors import ConfigError
from poisonbench.core.plugins import HOME
from poisonbench.report.cells import folded
from poisonbench.report.leaderboard import page
from poisonbench.report.links import links
from poisonbench.storage.record import Record
from tests.unit.report.test_leaderboard import CHROMIUM, made

HARNESS = Path(__file__).parent / "harness.html"
ENOUGH = 4.5  # contrast of text, WCAG 2.1 AA
TABS = ["Data attacks", "Texts", "Tables", "Outsourced training", "Federated attacks", "Retrieval", "Certificates"]


def look(folder: Path, width: int, *, dark: bool = False):
    """Return what the harness saw of `folder`/index.html in a frame of so many pixels."""
    if CHROMIUM is None:
        assert "CI" not in os.environ, "CI tests the page in a browser; .ci/run installs chromium"
        pytest.skip("no Chromium here")
    (folder / "harness.html").write_text(HARNESS.read_text().replace("WIDTH", str(width)).replace("PAGE", "index.html"))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=4000", "--enable-logging=stderr"]
    words += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    words += [f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", "--dump-dom", f"file://{folder}/harness.html"]
    done = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    return json.loads(html.unescape(re.search(r'id="told">(.*?)</script>', done.stdout, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """Return a folder with the committed page."""
    folder = tmp_path_factory.mktemp("committed")
    (folder / "index.html").write_text((HOME / "results" / "leaderboard" / "index.html").read_text())
    return folder


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_no_tab_is_wider_than_the_screen_and_all_text_can_be_read(committed, width, dark):
    seen = look(committed, width, dark=dark)["tabs"]
    assert [tab["tab"] for tab in seen] == TABS
    for tab in seen:
        assert tab["dark"] is dark
        assert tab["width"] == width
        assert tab["needed"] <= width, tab
        assert tab["contrast"] >= ENOUGH, tab


def test_each_tab_begins_with_its_own_summary(committed):
    seen = {tab["tab"]: tab for tab in look(committed, 1400)["tabs"]}
    assert seen["Data attacks"]["titles"][0] == "Defenses, best worst case first"
    assert seen["Certificates"]["titles"][0] == "Certificates, strongest first"
    assert "krum" in " ".join(seen["Federated attacks"]["defenses"])
    assert "krum" not in " ".join(seen["Data attacks"]["defenses"])
    assert seen["Data attacks"]["titles"][-1] == "Pairs that cannot be run"


def federated(record: Record) -> Record:
    return dataclasses.replace(record, spec={**record.spec, "defense": {**record.spec["defense"], "aggregate": {"class": "x.Y"}}})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a folder with a page of two tabs, whose names link to the site."""
    folder = tmp_path_factory.mktemp("small")
    records = [made(defense="spectral"), made(defense="own", asr=0.9), federated(made(attack="badnets+alie", defense="krum"))]
    (folder / "index.html").write_text(page(folded(records), "../"))
    return folder


def test_the_keyboard_walks_through_the_tabs_and_never_loses_its_place(small):
    told = look(small, 1400)
    assert [tab["defenses"] for tab in told["tabs"]] == [["Met every attack of this tab", "spectral", "own"], ["Met every attack of this tab", "krum"]]
    right, around, end, home, left = told["keys"][:5]
    assert (right, around) == ("tab-federated", "tab-data")
    assert (end, home, left) == ("tab-federated", "tab-data", "tab-federated")
    assert told["keys"][5] == "family"  # a filter that was changed keeps the focus
    assert re.fullmatch(r"open-\d+", told["keys"][6])  # a figure of the summary opens its cell, and the focus goes there
    assert told["opened"] == 1


def test_names_of_this_project_link_to_the_site_and_others_are_text(small):
    told = {name: address for name, address in look(small, 1400)["links"]}
    assert told == {"badnets": "../gallery.html#badnets", "spectral": "../reference/defenses/sanitize.html#spectral"}


def test_both_parts_of_a_pair_have_a_link():
    assert links("https://example.org/docs", "attack", ["badnets+alie"]) == {
        "alie": "https://example.org/docs/gallery.html#alie",
        "badnets": "https://example.org/docs/gallery.html#badnets",
    }


def test_a_site_is_a_folder_or_a_web_address():
    with pytest.raises(ConfigError, match="begins with https"):
        links("mark:1", "attack", ["badnets"])


@pytest.mark.parametrize("name", ["none", "../config", "badnets.yaml", "a b", "<mark>", "", "own"])
def test_a_name_that_is_no_option_of_this_project_has_no_link(name):
    assert links("../", "attack", [name]) == {}


def test_without_a_site_no_name_is_a_link():
    assert "href" not in page(folded([made()])).replace("{ href:", "")
