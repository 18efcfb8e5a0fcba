"""The leaderboard from made-up records, and in a real browser where there is one."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import time
import unicodedata
from html.parser import HTMLParser

import pyarrow.parquet
import pytest

from poisonbench.assemble import HOME
from poisonbench.record import Record
from poisonbench.report.__main__ import main
from poisonbench.report.leaderboard import as_csv, as_markdown, folded, page, rows
from poisonbench.report.tables import published
from tests.unit.report.payloads import EVIL

CLOSING, LOUD = "</script><mark>marked</mark>", "<mark title=mark(1)>"
DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(?=</script>)', re.DOTALL)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made(attack: str = "badnets", defense: str = "spectral", seed: int = 0, **more: object) -> Record:
    asr, rate = more.pop("asr", 0.1), more.pop("rate", 0.05)
    spec = {
        "attack": {"name": attack, "data": {"class": f"attacks.backdoor.{attack}.A", "version": 1}},
        "defense": {"name": defense},
        "task": {"name": "digits", "rows": {"train": 1366}},
        "learner": {"class": "poisonbench.learn.central.Central"},
        "threat": {"budget": {"rate": rate, "relabel": True}},
        "seed": seed,
    }
    command = f"python -m poisonbench attack={attack} defense={defense} seed={seed} threat.budget.rate={rate}"
    told = {"metrics": {"c_acc": 0.9 + seed / 100, "asr": asr}, "undefended": {"asr": 1.0}, "baseline": {"asr": 0.0}, "cost": {"seconds": {"fit": 2.0}}}
    return Record(spec=spec, command=command, provenance={"commit": "0123456789abcdef"}, **(told | more))


def test_seeds_are_folded_into_a_mean_and_its_interval():
    (cell,) = folded([made(seed=seed) for seed in (0, 1, 2)])
    assert (cell.task, cell.family, cell.attack, cell.rate, cell.defense, cell.learner) == ("digits", "backdoor", "badnets", 0.05, "spectral", "Central")
    assert cell.threat == "relabel and edit rows"
    mean, half = cell.figures["c_acc"]
    assert mean == pytest.approx(0.91)
    assert half == pytest.approx(4.302653 * 0.01 / 3**0.5)
    assert [seed["seed"] for seed in cell.seeds] == [0, 1, 2]
    assert cell.command == "python -m poisonbench attack=badnets defense=spectral threat.budget.rate=0.05"
    assert "tpr" not in cell.figures


def test_the_rate_of_a_skipped_cell_with_a_budget_by_count_is_of_the_rows_asked_for():
    record = made()
    counted = {**record.spec, "threat": {"budget": {"rate": 0.05, "count": 683}}}
    (cell,) = folded([dataclasses.replace(record, spec=counted, status="skipped", reason="no such slot", counts={}, metrics={})])
    assert cell.rate == 0.5


def test_a_cell_of_one_seed_has_no_interval_and_a_failed_seed_no_figure():
    (cell,) = folded([made(seed=0), made(seed=1, status="failed", reason="out of memory", metrics={}, undefended={}, baseline={}, cost={})])
    assert cell.figures["c_acc"] == (0.9, None)
    assert [seed.get("status", "done") for seed in cell.seeds] == ["done", "failed"]
    assert rows([cell])[0]["seeds"] == 2
    assert rows([cell])[0]["done"] == 1


def test_the_order_of_words_makes_no_other_cell():
    commands = [f"python -m poisonbench attack=badnets defense=spectral {words}" for words in ("net=mlp seed=0 learner=quick", "learner=quick seed=1 net=mlp")]
    (cell,) = folded([dataclasses.replace(made(seed=seed), command=command) for seed, command in enumerate(commands)])
    assert cell.setting == "learner=quick net=mlp"


def test_behind_a_screen_its_figures_count():
    (cell,) = folded([made(metrics={"c_acc": 0.9, "asr": 1.0, "screen": {"asr": 0.02, "auroc": 0.99}})])
    assert cell.figures["asr"][0] == 0.02
    assert cell.figures["c_acc"][0] == 0.9


def test_defenses_that_met_the_same_attack_are_ranked():
    asr = {"none": 0.9, "spectral": 0.1}
    cells = folded(
        [made(defense=defense, seed=seed, asr=height + 0.001 * seed * seed * (height > 0.5)) for defense, height in asr.items() for seed in range(3)]
    )
    assert {cell.defense: cell.rank for cell in cells} == {"none": (2, 2), "spectral": (1, 1)}
    assert [cell.rank for cell in folded([made()])] == [None]


def test_curves_are_means_over_seeds():
    curves = [{"defended": {"asr": [0.0, 0.5]}}, {"defended": {"asr": [0.2, 0.7]}}]
    found = folded([made(seed=seed, curves=curve, metrics={"asr": 0.1, "certified": [0.8, 0.4]}) for seed, curve in enumerate(curves)])
    assert found[0].curves == {"certified": [0.8, 0.4], "rounds": [0.1, 0.6]}


@pytest.mark.parametrize("text", EVIL)
def test_no_text_of_a_record_is_more_than_text(text):
    cells = folded([made(attack="badnets", defense=text, status="failed", reason=text)])
    whole = page(cells)
    assert whole.count("<script") == 2
    assert DATA.sub(r"\1", whole) == DATA.sub(r"\1", page(folded([made()])))  # nothing of a record stands anywhere else
    block = DATA.search(whole)[2]
    assert not set(block) & set("<>&")
    data = json.loads(block)
    assert data[0]["d"] == "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cf") else letter for letter in text)
    (row,) = csv.DictReader(io.StringIO(as_csv(cells)))
    assert not row["defense"].startswith(("=", "+", "-", "@", "\t", "\r"))
    told = as_csv(cells) + as_markdown(cells)
    assert not set(told) & set("\x00\x07\x08\x1b\x7f\x9b\u00ad\u061c\u200b\u202e\u2066\ufeff")
    assert "<" not in as_markdown(cells)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 10 for line in as_markdown(cells).splitlines())


def test_the_worst_of_them_meet_the_browser():
    assert {CLOSING, LOUD} < set(EVIL)
    assert len(set(EVIL)) == 130


def test_the_page_asks_nobody_for_anything():
    whole = page(folded([made()]))
    assert "default-src 'none'" in whole
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", whole)
    assert page(folded([made()])) == whole


def test_the_command_writes_four_files_of_the_same_cells(tmp_path, capsys):
    for seed in range(3):
        made(seed=seed).write(tmp_path / "records")
    assert main(["--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.html", "leaderboard.csv", "leaderboard.md", "leaderboard.parquet"]
    table = pyarrow.parquet.read_table(tmp_path / "out" / "leaderboard.parquet").to_pylist()
    (row,) = csv.DictReader(io.StringIO((tmp_path / "out" / "leaderboard.csv").read_text()))
    assert float(row["asr"]) == table[0]["asr"] == pytest.approx(0.1)
    assert "91.0 ± 2.5" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert "1 cells from 3 records" in capsys.readouterr().out


def test_an_empty_or_damaged_folder_is_one_sentence(tmp_path, capsys):
    assert main(["--records", str(tmp_path)]) == 2
    (tmp_path / "a.json").write_text("{}")
    assert main(["--records", str(tmp_path)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert all(line.startswith("poisonbench: ") for line in err)


def test_the_committed_leaderboard_is_that_of_the_committed_records():
    cells = folded(published(HOME / "results" / "records"))
    folder = HOME / "results" / "leaderboard"
    assert (folder / "index.html").read_text() == page(cells)
    assert (folder / "leaderboard.csv").read_text() == as_csv(cells)
    assert (folder / "leaderboard.md").read_text() == as_markdown(cells)
    assert pyarrow.parquet.read_table(folder / "leaderboard.parquet").to_pylist() == rows(cells)


def many(count: int) -> list[Record]:
    return [made(attack=f"attack{number // 300}", defense=f"defense{number // 3 % 100}", seed=number % 3) for number in range(count)]


def test_five_thousand_records_take_less_than_five_seconds(tmp_path):
    for record in many(5000):
        (tmp_path / f"{record.key}.json").write_text(json.dumps({"schema": 1, **dataclasses.asdict(record), "result_digest": record.result_digest}))
    seconds = []
    for _ in range(2):
        start = time.process_time()
        whole = page(folded(published(tmp_path)))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 5
    assert len(whole) < 2_000_000


@pytest.mark.slow
def test_fifty_thousand_records_fit_a_page_of_ten_megabytes(tmp_path):
    start = time.process_time()
    whole = page(folded(many(50_000)))
    assert time.process_time() - start < 60
    assert len(whole) < 10_000_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Return a function from a view to the page as a browser has it, and what it logged."""
    if CHROMIUM is None:
        assert "CI" not in os.environ, "CI tests the page in a browser; .ci/run installs chromium"
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("page")
    records = [
        made(attack=attack, defense=defense, seed=seed, asr=asr)
        for seed in range(3)
        for attack, defense, asr in (("badnets", "none", 1.0), ("sig", "spectral", 0.5))
    ]
    records += [made(rate=0.1, asr=0.2), made(defense=CLOSING), made(defense=LOUD, status="failed", reason="too <b>large</b>")]
    (folder / "index.html").write_text(page(folded(records)))

    def look(view: str) -> tuple[str, str]:
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
        done = subprocess.run([CHROMIUM, *words, f"file://{folder}/index.html#{view}"], capture_output=True, text=True, timeout=60, check=True)
        return re.sub(r'<script type="application/json".*?</script>', "", done.stdout, flags=re.DOTALL), done.stderr

    return look


def cells_in(dom: str) -> list[list[str]]:
    body = re.search(r'<table id="cells">.*?<tbody>(.*)</tbody>', dom, re.DOTALL)[1]
    return [re.findall(r"<td[^>]*>(?:<button[^>]*>)?(.*?)(?:</button>)?</td>", row) for row in body.split("</tr>") if "<td" in row]


def elements(dom: str) -> set[str]:
    """Return the names of the elements of a page; a text in an attribute is none."""
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: found.add(tag)
    parser.feed(dom)
    return found


def test_a_browser_shows_every_cell_without_a_complaint(opened):
    dom, log = opened("")
    assert "CONSOLE" not in log
    assert len(cells_in(dom)) == 5
    assert all(text.replace("<", "&lt;").replace(">", "&gt;") in dom for text in (CLOSING, LOUD))  # the names are there, as text
    assert "mark" not in elements(dom)
    assert "<svg" in dom


def test_a_browser_sorts_and_filters(opened):
    ascending = [row[10] for row in cells_in(opened("sort=asr")[0])]
    assert [float(text.split()[0]) for text in ascending if text] == [10.0, 20.0, 50.0, 100.0]
    assert [float(text.split()[0]) for text in [row[10] for row in cells_in(opened("sort=asr&down=1")[0])] if text] == [100.0, 50.0, 20.0, 10.0]
    assert [row[1] for row in cells_in(opened("q=sig")[0])] == ["sig"]
    assert [row[2] for row in cells_in(opened("rate=0.1")[0])] == ["10 %"]


def test_a_browser_opens_a_cell(opened):
    dom, log = opened("open=0")
    assert "CONSOLE" not in log
    assert 'class="detail"' in dom
    assert re.search(r"<pre>python -m poisonbench attack=badnets .* seed=", dom)


def test_a_browser_shows_why_a_cell_failed(opened):
    numbers = [number for number in range(5) if "too &lt;b&gt;large&lt;/b&gt;" in opened(f"open={number}")[0]]
    assert len(numbers) == 1
