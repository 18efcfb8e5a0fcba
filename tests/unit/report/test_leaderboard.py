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

from poisonbench.core.plugins import HOME
from poisonbench.report.__main__ import main
from poisonbench.report.cells import folded
from poisonbench.report.exports import as_csv, as_markdown, rows
from poisonbench.report.leaderboard import gaps, page
from poisonbench.report.tables import published
from poisonbench.stats import intervals
from poisonbench.storage.record import Record
from tests.unit.report.payloads import EVIL

CLOSING, LOUD = "</script><mark>marked</mark>", "<mark title=mark(1)>"
DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(?=</script>)', re.DOTALL)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made(attack: str = "badnets", defense: str = "spectral", seed: int = 0, **more: object) -> Record:
    asr, rate = more.pop("asr", 0.1), more.pop("rate", 0.05)
    spec = {
        "attack": {"name": attack, "data": {"class": f"attacks.backdoor.{attack}.A", "version": 1}},
        "defense": {"name": defense} | ({} if defense == "none" else {"sanitize": {"class": f"defenses.sanitize.{defense}.A"}}),
        "task": {"name": "digits", "rows": {"train": 1366}},
        "learner": {"class": "poisonbench.learn.central.Central"},
        "threat": {"budget": {"rate": rate, "relabel": True}},
        "seed": seed,
    }
    command = f"python -m poisonbench attack={attack} defense={defense} seed={seed} threat.budget.rate={rate}"
    told = {"metrics": {"c_acc": 0.9 + seed / 100, "asr": asr}, "undefended": {"asr": 1.0}, "baseline": {"asr": 0.0}, "cost": {"seconds": {"fit": 2.0}}}
    return Record(spec=spec, command=command, provenance={"commit": "0123456789abcdef"}, **(told | more))


def test_seeds_are_folded_into_a_mean_a_range_and_an_interval():
    (cell,) = folded([made(seed=seed) for seed in (0, 1, 2)])
    assert (cell.task, cell.family, cell.attack, cell.rate, cell.defense, cell.learner) == ("digits", "backdoor", "badnets", 0.05, "spectral", "Central")
    assert cell.threat == "relabel and edit rows"
    assert cell.figures["c_acc"] == pytest.approx((0.91, 0.9, 0.92, *intervals([[0.9, 0.91, 0.92]])[0]))
    assert cell.figures["seconds"] == (2.0, 2.0, 2.0, None, None)
    assert [seed["seed"] for seed in cell.seeds] == [0, 1, 2]
    assert cell.command == "python -m poisonbench attack=badnets defense=spectral threat.budget.rate=0.05"
    assert "tpr" not in cell.figures


def test_the_rate_of_a_skipped_cell_with_a_budget_by_count_is_of_the_rows_asked_for():
    record = made()
    counted = {**record.spec, "threat": {"budget": {"rate": 0.05, "count": 683}}}
    (cell,) = folded([dataclasses.replace(record, spec=counted, status="skipped", reason="no such slot", counts={}, metrics={})])
    assert cell.rate == 0.5


def failed(seed: int, **more: object) -> Record:
    return made(seed=seed, status="failed", reason="out of memory", metrics={}, undefended={}, baseline={}, cost={}, **more)


def test_a_failed_seed_is_a_success_of_the_attack_and_an_answer_by_chance():
    (cell,) = folded([made(seed=0, counts={"classes": 4}), failed(1)])
    assert cell.figures["c_acc"][:3] == (pytest.approx((0.9 + 0.25) / 2), 0.25, 0.9)
    assert cell.figures["asr"][:3] == cell.figures["net_asr"][:3] == (pytest.approx(0.55), 0.1, 1.0)
    assert cell.figures["seconds"][:3] == (2.0, 2.0, 2.0)
    assert [seed.get("status", "done") for seed in cell.seeds] == ["done", "failed"]
    assert rows([cell])[0]["seeds"] == 2
    assert rows([cell])[0]["done"] == 1


def test_a_chance_that_no_record_tells_is_nothing_and_an_attack_without_asr_gets_none():
    cells = {cell.attack: cell for cell in folded([failed(0), made(attack="degrade", seed=0, metrics={"c_acc": 0.5}), failed(1, attack="degrade")])}
    assert cells["badnets"].figures.keys() == {"c_acc", "c_acc_lost"}
    assert cells["badnets"].figures["c_acc"].mean == 0.0
    assert cells["degrade"].figures["c_acc"].mean == 0.25
    assert "asr" not in cells["degrade"].figures


def test_a_defense_that_only_failed_is_last_and_not_ranked():
    cells = folded(
        [*(made(defense=defense, seed=seed, asr=0.0) for defense in ("a", "b") for seed in range(3)), *(failed(seed, defense="c") for seed in range(3))]
    )
    told = {cell.defense: (cell.figures["asr"].mean, cell.rank, cell.unranked) for cell in cells}
    assert told == {"a": (0.0, (1, 2), ""), "b": (0.0, (1, 2), ""), "c": (1.0, None, "no seed was done")}


def test_the_order_of_words_makes_no_other_cell():
    commands = [f"python -m poisonbench attack=badnets defense=spectral {words}" for words in ("net=mlp seed=0 learner=quick", "learner=quick seed=1 net=mlp")]
    (cell,) = folded([dataclasses.replace(made(seed=seed), command=command) for seed, command in enumerate(commands)])
    assert cell.setting == "learner=quick net=mlp"


def test_behind_a_screen_its_figures_count():
    (cell,) = folded([made(metrics={"c_acc": 0.9, "asr": 1.0, "screen": {"asr": 0.02, "auroc": 0.99}})])
    assert cell.figures["asr"][0] == 0.02
    assert cell.figures["c_acc"][0] == 0.9


def board(seeds: int, clean: float = 0.9, **asr: float) -> list[Record]:
    """Defenses with one ASR on all seeds, and 0.0 for clean training."""
    told = {"baseline": {"c_acc": clean, "asr": 0.0}}
    return [made(defense=name, seed=seed, metrics={"c_acc": clean, "asr": height}, **told) for name, height in asr.items() for seed in range(seeds)]


def ranked(records: list[Record]) -> dict[str, tuple[int, int] | str]:
    return {cell.defense: cell.rank or cell.unranked for cell in folded(records) if cell.attack != "none"}


def test_defenses_that_met_the_same_attack_are_ranked_where_seeds_are_many():
    assert ranked(board(10, spectral=0.1, strip=0.9)) == {"spectral": (1, 1), "strip": (2, 2)}
    assert ranked(board(3, spectral=0.0, strip=1.0)) == {"spectral": (1, 2), "strip": (1, 2)}
    assert [cell.rank for cell in folded([made()])] == [None]
    assert {cell.compared for cell in folded(board(3, spectral=0.0, strip=1.0))} == {2}


def test_ranks_compare_what_the_attack_adds_to_clean_training_and_nothing_below():
    def judged(defense: str, asr: float) -> list[Record]:
        return [made(defense=defense, seed=seed, metrics={"c_acc": 0.9, "asr": asr}, baseline={"c_acc": 0.9, "asr": 0.6}) for seed in range(10)]

    cells = {cell.defense: cell for cell in folded([*judged("constant", 0.0), *judged("honest", 0.6), *judged("poor", 1.0)])}
    assert {name: cell.figures["net_asr"].mean for name, cell in cells.items()} == {"constant": 0.0, "honest": 0.0, "poor": pytest.approx(0.4)}
    assert {cell.rank for cell in cells.values()} == {(1, 3)}


def test_a_constant_model_does_not_win():
    constant = [made(defense="constant", seed=seed, metrics={"c_acc": 0.1, "asr": 0.0}, baseline={"c_acc": 0.9, "asr": 0.0}) for seed in range(10)]
    told = ranked([*constant, *board(10, spectral=0.1, strip=0.9)])
    assert told["constant"] == "loses 80.0 points of C-Acc under the attack, with no record without one"
    assert told["spectral"] == (1, 1)


def under(defense: str, c_acc: float, *, undefended: float = 0.98, asr: float = 0.0) -> list[Record]:
    """A defense that costs nothing without an attack, and its C-Acc beside that of the undefended model under one."""
    calm = made(attack="none", defense=defense, metrics={"c_acc": 0.98}, undefended={"c_acc": 0.98}, baseline={"c_acc": 0.98})
    told = {"metrics": {"c_acc": c_acc, "asr": asr}, "undefended": {"c_acc": undefended, "asr": 1.0}, "baseline": {"c_acc": 0.98, "asr": 0.0}}
    return [calm, *(made(defense=defense, seed=seed, **told) for seed in range(10))]


def test_a_model_that_collapses_under_the_attack_alone_is_listed_and_not_ranked():
    told = ranked([*under("collapsed", 0.1), *under("good", 0.97, asr=0.02), *under("poor", 0.97, asr=0.9)])
    assert told["collapsed"] == "under the attack its C-Acc is 88.0 points below that of the undefended model"
    assert told["good"] == (1, 1)
    assert told["poor"] == (2, 2)


def test_five_points_below_the_undefended_model_are_ranked_and_more_are_not():
    told = ranked([*under("at", 0.93), *under("beside", 0.93), *under("beyond", 0.929)])
    assert told["at"] == told["beside"] == (1, 2)
    assert told["beyond"] == "under the attack its C-Acc is 5.1 points below that of the undefended model"


def test_points_that_the_attack_takes_from_the_undefended_model_too_are_not_held_against_a_defense():
    assert ranked([*under("one", 0.7, undefended=0.72), *under("other", 0.7, undefended=0.72)]) == {"one": (1, 2), "other": (1, 2)}


def test_both_reasons_are_told_where_both_apply():
    dear = [dataclasses.replace(record, metrics={**record.metrics, "c_acc": 0.8}) for record in under("dear", 0.1)]
    (reason,) = ranked(dear).values()
    assert reason == "loses 18.0 points of C-Acc without an attack; under the attack its C-Acc is 18.0 points below that of the undefended model"


def test_a_cell_of_which_every_seed_failed_is_not_ranked_though_its_defense_works_without_an_attack():
    records = [*under("one", 0.97), *under("other", 0.97), under("broken", 0.9)[0], *(failed(seed, defense="broken") for seed in range(3))]
    assert ranked(records)["broken"] == "no seed was done"


def test_what_a_defense_costs_without_an_attack_decides_and_not_what_the_attack_costs():
    def hit(defense: str) -> list[Record]:  # the attack takes 20 points from everybody
        return [made(defense=defense, seed=seed, metrics={"c_acc": 0.7, "asr": 0.1}, baseline={"c_acc": 0.9, "asr": 0.0}) for seed in range(3)]

    def calm(defense: str, c_acc: float) -> Record:
        return made(attack="none", defense=defense, metrics={"c_acc": c_acc}, undefended={"c_acc": 0.9}, baseline={"c_acc": 0.9})

    told = ranked([*hit("none"), *hit("cheap"), *hit("dear"), calm("cheap", 0.851), calm("dear", 0.849)])
    assert told["dear"] == "loses 5.1 points of C-Acc without an attack"
    assert "under the attack" in told["cheap"] if isinstance(told["cheap"], str) else told["cheap"] == (1, 2)
    assert told["cheap"] == told["none"] == (1, 2)


def test_krum_on_rows_dealt_unevenly_is_listed_and_not_ranked():
    cells = folded(published(HOME / "results" / "records"))
    (krum,) = [cell for cell in cells if (cell.defense, cell.attack, cell.setting) == ("krum", "badnets+model_replacement", "owners=dirichlet")]
    assert krum.figures["asr"].mean == 0.0
    assert krum.figures["c_acc"].mean < 0.65
    assert krum.rank is None
    assert krum.unranked.startswith("loses 3")


def test_skipped_cells_are_not_ranked():
    skipped = made(defense="krum", status="skipped", reason="no such slot", metrics={}, undefended={}, baseline={})
    (cell,) = [cell for cell in folded([*board(3, spectral=0.0, strip=1.0), skipped]) if cell.defense == "krum"]
    assert (cell.rank, cell.unranked, dict(cell.figures)) == (None, "", {})


def test_the_page_says_the_smallest_gap_for_its_numbers_of_cells():
    cells = folded(
        [*board(3, spectral=0.0, strip=1.0), *(dataclasses.replace(record, command=f"{record.command} net=mlp") for record in board(3, a=0, b=0, c=0))]
    )
    assert gaps(cells) == [("2", "none", "none", "55 points"), ("3", "none", "none", "61 points")]
    assert "<td>2</td><td>none</td><td>none</td><td>55 points</td>" in page(cells)
    assert gaps(folded([made()])) == []


def test_radii_and_epsilons_stand_beside_what_they_count():
    old = made(metrics={"c_acc": 0.9, "asr": 0.1, "certified": [0.9, 0.6], "median_radius": 1}, facts={"epsilon": 3.0})
    (cell,) = folded([old])
    assert (cell.unit, cell.relation) == ("changed training rows (kind of change not recorded)", "neighbours not recorded, draws of public seeds")
    told = dataclasses.replace(old, metrics={**old.metrics, "radius_unit": "labels flipped"}, facts={"epsilon": 3.0, "adjacency": "replace one row"})
    (cell,) = folded([told])
    assert (cell.unit, cell.relation) == ("labels flipped", "neighbours: replace one row, draws of public seeds")
    (row,) = rows([cell])
    assert (row["median_radius"], row["radius_unit"], row["epsilon"], row["relation"]) == (1.0, "labels flipped", 3.0, cell.relation)
    randomised = dataclasses.replace(told, spec={**told.spec, "defense": {"name": "bagging", "certify": {"alpha": 0.001}}})
    assert [cell.unit for cell in folded([randomised])] == ["labels flipped, draws of public seeds"]
    assert [cell.unit for cell in folded([made()])] == [""]


def test_cover_rows_stand_in_the_details_of_a_cell_that_has_them():
    (cell,) = folded([made(counts={"cover": 136}, metrics={"c_acc": 0.9, "asr": 0.1, "tpr": 0.3, "cover_removed": 0.95})])
    assert cell.figures["cover"][:3] == (136, 136, 136)
    assert cell.figures["cover_removed"].mean == 0.95
    assert not {"cover", "cover_removed"} & folded([made()])[0].figures.keys()
    assert all(f' {name}: "' in page([cell]) for name in ("cover", "cover_removed"))  # the names under which the page shows them


def test_cells_say_what_the_referee_of_today_has_not_seen():
    old = made(schema=1)
    assert old.unseen
    whole = page(folded([old, made(defense="strip")]))
    data = json.loads(re.search(r'id="data">(.*?)</script>', whole, re.DOTALL)[1])
    assert data["unseen"] == [sorted(old.unseen)]
    assert [cell.get("x") for cell in data["cells"]] == [0, None]
    assert "older form" in whole
    assert "older form" not in page(folded([made()]))


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
    assert data["cells"][0]["d"] == "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cf") else letter for letter in text)
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
    assert "91.0 (90.0 to 92.0)" in (tmp_path / "out" / "leaderboard.md").read_text()
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


def cells_in(dom: str) -> list[dict[str, str]]:
    """Return the rows of the table of all cells, by the heads of its columns."""
    head, body = re.search(r'<table id="cells"><thead>(.*?)</thead><tbody>(.*?)</tbody></table></div>', dom, re.DOTALL).groups()
    names = [name.rstrip(" ▴▾") for name in re.findall(r"<th[^>]*><button[^>]*>(.*?)</button></th>", head)]
    rows = [re.findall(r"<td[^>]*>(?:<button[^>]*>)?(.*?)(?:</button>)?</td>", row) for row in body.split("</tr>") if "<td" in row]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


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
    ascending, descending = ([row["ASR"].split()[0] for row in cells_in(opened(view)[0]) if row["ASR"]] for view in ("sort=asr", "sort=asr&down=1"))
    assert ascending == ["10.0", "20.0", "50.0", "100.0", "100.0"]
    assert descending == ["100.0", "100.0", "50.0", "20.0", "10.0"]
    assert [row["attack"] for row in cells_in(opened("q=sig")[0])] == ["sig"]
    assert [row["rate"] for row in cells_in(opened("rate=0.1")[0])] == ["10 %"]


def test_a_browser_shows_no_column_without_a_figure(opened):
    names = cells_in(opened("")[0])[0].keys()
    assert {"attack", "defense", "C-Acc", "ASR"} < names
    assert not {"median radius", "epsilon", "TPR"} & names


def test_a_browser_opens_a_cell(opened):
    dom, log = opened("open=0")
    assert "CONSOLE" not in log
    assert 'class="detail"' in dom
    assert re.search(r"<pre>python -m poisonbench attack=badnets .* seed=", dom)


def test_a_browser_shows_ranges_intervals_and_ranks(opened):
    (dom,) = [dom for dom, _ in (opened(f"open={place}&q=sig") for place in range(5)) if 'class="detail"' in dom]
    assert "91.0 (90.0 to 92.0)" in dom
    (ends,) = intervals([[0.9, 0.91, 0.92]])
    told = f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
    assert f'title="95 % interval {told}"' in dom
    assert f"<td>{told}</td>" in dom
    assert f"<td>{told}</td>" not in opened("")[0]
    assert any('title="of 2 cells">1 to 2<' in row for row in opened("q=badnets")[0].split("</tr>"))


def test_a_browser_shows_why_a_cell_failed(opened):
    numbers = [number for number in range(5) if "too &lt;b&gt;large&lt;/b&gt;" in opened(f"open={number}")[0]]
    assert len(numbers) == 1
