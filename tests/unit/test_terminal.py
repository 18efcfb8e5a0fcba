import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from poisonbench.storage.record import Record
from poisonbench.sweep.audience import Crowd
from poisonbench.sweep.cell import Outcome
from poisonbench.terminal import percent, progress, show_record, show_sweep, span

RECORD = Record(
    spec={"attack": {"name": "badnets"}, "defense": {"name": "random_drop"}, "task": {"name": "digits"}, "threat": {"budget": {"rate": 0.05}}, "seed": 100},
    metrics={"c_acc": 1.0, "asr": 1.0},
    undefended={"c_acc": 1.0, "asr": 1.0},
    baseline={"c_acc": 1.0, "asr": 0.0},
)


def shown(show, *values: object, **options: object) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=80, **options), *values)
    return stream.getvalue()


def test_a_sweep_fits_eighty_columns_without_cutting_a_word():
    failed = dataclasses.replace(RECORD, status="failed", reason="Diverged: the loss")
    words = [["attack=badnets", "attack.data.size=2", "seed=0"], ["attack=badnets", "attack.data.size=3", "seed=0"]]
    text = shown(show_sweep, [(RECORD, Path("0123456789abcdef.json")), (failed, Path("fedcba9876543210.json"))], words)
    assert "size=2" in text
    assert "attack=badnets" not in text
    assert "…" not in text
    assert all(word in text for word in ("random_drop", "100.0 / 100.0", "0123456789ab", "failed"))


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"domains": 2, "cents": 1783}, "within the attacker's reach: 9 of 1306 rows, on 2 domains bought for 17.83 dollars; poisoned: 2"),
        ({"attempted": 270}, "within the attacker's reach: 9 of 1306 rows, of 270 pages that were edited; poisoned: 2"),
    ],
)
def test_a_record_shows_the_rows_within_reach_and_what_they_cost(counts, line):
    told = dataclasses.replace(RECORD, counts={"train": 1306, "reachable": 9, "poisoned": 2, **counts})
    assert line in " ".join(shown(show_record, told, Path("x.json")).split())


def test_a_record_that_is_not_done_shows_its_reason():
    skipped = dataclasses.replace(RECORD, status="skipped", reason="no place for it")
    assert "skipped, no place for it" in shown(show_record, skipped, Path("x.json"))


def test_a_figure_that_does_not_apply_is_blank():
    assert percent(None) == ""
    assert percent(0.1234) == "12.3 %"
    nothing = dataclasses.replace(RECORD, metrics={"c_acc": 1.0}, undefended={"c_acc": 1.0}, baseline={"c_acc": 1.0})
    assert "ASR" not in shown(show_record, nothing, Path("x.json"))


def test_the_figures_of_a_goal_follow_the_rates_as_shares_or_as_they_are():
    goals = {"near_trigger": 0.125, "perplexity": 17.04, "c_acc_lost": 0.5}
    record = dataclasses.replace(
        RECORD, undefended={"c_acc": 1.0, "asr": 1.0, "goal": goals}, baseline={"c_acc": 1.0, "asr": 0.0, "goal": {"near_trigger": 0.0}}
    )
    lines = [line.split("│") for line in shown(show_record, record, Path("x.json")).splitlines() if "│" in line]
    rows = {line[1].strip(): [cell.strip() for cell in line[2:5]] for line in lines}
    assert rows["near trigger"] == ["0.0 %", "12.5 %", ""]
    assert rows["perplexity"] == ["", "17", ""]
    assert list(rows)[:2] == ["C-Acc", "ASR"]
    assert "c acc lost" not in rows  # a phrase below the table states it


def test_a_terminal_shows_bars_and_a_pipe_shows_none():
    def work(console: Console) -> None:
        with progress(console) as (listen, _):
            for done in range(3):
                listen("fit epochs", done + 1, 3)

    assert "fit epochs" in shown(work, force_terminal=True)
    assert shown(work) == ""


@pytest.mark.parametrize(("seconds", "says"), [(1, ""), (60, "1/10, about 9 min left"), (120, "1/10, about 18 min left"), (1200, "1/10, about 3.0 h left")])
def test_after_the_first_step_the_time_left_is_told_and_what_would_be_faster(monkeypatch, seconds, says):
    """Ten steps of so many seconds; above ten minutes in all the user learns what takes less."""
    clock = iter(range(0, 10**6, seconds))

    def work(console: Console) -> None:
        with progress(console) as (listen, _):
            now = [0]
            monkeypatch.setattr("time.monotonic", lambda: now[0])
            for done in range(2):
                now[0] = next(clock)
                listen("fit baseline epochs", done, 10)

    monkeypatch.setattr("time.monotonic", lambda: 0)
    told = shown(work)
    assert says in told
    assert bool(told) == bool(says)
    assert ("to make it faster use fewer rows (task.limit=2000), fewer epochs or a smaller network" in told) == (9 * seconds > 600)


def test_work_without_epochs_is_given_no_advice_on_them(monkeypatch):
    def work(console: Console) -> None:
        with progress(console) as (listen, _):
            for done in range(2):
                monkeypatch.setattr("time.monotonic", lambda done=done: 7000 * done)
                listen("judge classes", done, 3)

    assert "judge classes: 1/3, about 3.9 h left" in shown(work)
    assert "faster" not in shown(work)


def test_lengths_of_time_are_told_as_people_do():
    assert [span(seconds) for seconds in (4.4, 89, 90, 600, 5399, 5400, 36000)] == ["4 s", "89 s", "2 min", "10 min", "90 min", "1.5 h", "10.0 h"]


def test_a_sweep_is_timed_from_its_first_cell(monkeypatch):
    """Ten cells of 300 s each: after two of them 40 minutes are left."""

    def work(console: Console) -> None:
        monkeypatch.setattr("time.monotonic", lambda: 0)
        with progress(console) as (listen, handler):
            crowd = Crowd(cells=10, listen=listen, handler=handler, show=lambda cell: 0)
            for number in range(2):
                monkeypatch.setattr("time.monotonic", lambda number=number: 300 * (number + 1))
                crowd.finished(number, Outcome(words=(), code=0))

    assert "cells of the sweep: 2/10, about 40 min left" in shown(work)


def test_advice_is_given_once_for_equal_trainings(monkeypatch):
    def work(console: Console) -> None:
        with progress(console) as (listen, _):
            for done in (0, 1, 0, 1):
                monkeypatch.setattr("time.monotonic", lambda done=done: 7000 * done)
                listen("fit defended epochs", done, 3)

    assert shown(work).count("to make it faster") == 1
