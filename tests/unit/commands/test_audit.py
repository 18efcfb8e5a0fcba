"""Vetting a training set, on a folder of pictures with planted poison."""

import csv
import re

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from poisonbench.cli import entry

FAST = ("net.widths=[8,16]", "net.depths=[1,1]", "learner.epochs=8", "learner.batch_size=32", "learner.lr=0.1", "threads=1", "task.size=8", "task.grey=true")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Make a folder of two kinds of stripes; four of the rows across carry a white square and the wrong label."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 10)):
        for label, kind in enumerate(("across", "down")):
            (tmp_path / "data" / part / kind).mkdir(parents=True)
            for number in range(count):
                picture = random.integers(0, 90, (8, 8)) + 120 * (np.indices((8, 8))[label] % 2)
                Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "data" / part / kind / f"{number:03}.png")
    for number in range(8):
        picture = random.integers(0, 90, (8, 8)) + 120 * (np.indices((8, 8))[1] % 2)
        picture[4:, 4:] = 255
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "data" / "train" / "across" / f"poison{number}.png")
    return tmp_path


def test_planted_rows_come_first_under_their_file_names(pictures, capsys):
    assert entry(["audit", "task=image_folder", "task.root=data", "defense=[spectral,knn_outlier]", "threat.budget.rate=0.06", *FAST]) == 0
    out = capsys.readouterr().out
    assert "128 rows of data" in out
    assert re.search(r"spectral and knn_outlier both name \d+ of the \d+ rows", out)
    assert "nobody attacking" in out
    folder = pictures / "results" / "audit" / "data"
    rows = list(csv.DictReader((folder / "suspects.csv").read_text().splitlines()))
    assert len(rows) == 128
    found = [row["name"] for row in rows[:12]]
    assert sum("poison" in name for name in found) >= 6
    assert all(name.startswith("train/") for name in found)
    assert rows[0]["filters"] == "2"
    assert pyarrow.parquet.read_table(folder / "suspects.parquet").num_rows == 128
    page = (folder / "index.html").read_text()
    assert page.count("<figure>") == 24
    assert page.count("data:image/png;base64,") == 72
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_names_of_files_are_text_and_nothing_else(pictures):
    for number, name in enumerate(("=1+1", "<mark title=x>", "\x1b[31m")):
        (pictures / "data" / "train" / "across" / f"poison{number}.png").rename(pictures / "data" / "train" / "across" / f"{name}.png")
    for part in ("train", "test"):
        (pictures / "data" / part / "down").rename(pictures / "data" / part / "=down")
    assert entry(["audit", "task=image_folder", "task.root=data", "defense=knn_outlier", "threat.budget.rate=0.06", *FAST]) == 0
    folder = pictures / "results" / "audit" / "data"
    told, shown = (folder / "suspects.csv").read_text(), (folder / "index.html").read_text()
    assert "1+1.png" in told
    assert "'=down" in told
    assert ",=" not in told
    assert "\x1b" not in told
    assert "&lt;mark title=x&gt;" in shown
    assert "<mark" not in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name the rows and the filters"),
        (["defense=krum"], "judges no training rows"),
        (["defense=spectrall"], "spectral"),
        (["task=nonsense", "defense=spectral"], "nonsense"),
    ],
)
def test_what_cannot_be_vetted_is_one_sentence(pictures, capsys, words, says):
    assert entry(["audit", "task=blobs", *FAST[:6], *words]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert len(told.err.strip().splitlines()) == 1
