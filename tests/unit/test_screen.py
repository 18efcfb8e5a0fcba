import dataclasses
import io
from pathlib import Path

from rich.console import Console

from poisonbench.record import Record
from poisonbench.screen import percent, progress, show_record, show_sweep

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
    text = shown(show_sweep, [(RECORD, Path("0123456789abcdef.json")), (failed, Path("fedcba9876543210.json"))])
    assert "…" not in text
    assert all(word in text for word in ("random_drop", "100.0 / 100.0", "0123456789ab", "failed"))


def test_a_record_that_is_not_done_shows_its_reason():
    skipped = dataclasses.replace(RECORD, status="skipped", reason="no place for it")
    assert "skipped, no place for it" in shown(show_record, skipped, Path("x.json"))


def test_a_figure_that_does_not_apply_is_blank():
    assert percent(None) == ""
    assert percent(0.1234) == "12.3 %"
    nothing = dataclasses.replace(RECORD, metrics={"c_acc": 1.0}, undefended={"c_acc": 1.0}, baseline={"c_acc": 1.0})
    assert "ASR" not in shown(show_record, nothing, Path("x.json"))


def test_a_terminal_shows_bars_and_a_pipe_shows_none():
    def work(console: Console) -> None:
        with progress(console) as (listen, _):
            for done in range(3):
                listen("fit epochs", done + 1, 3)

    assert "fit epochs" in shown(work, force_terminal=True)
    assert shown(work) == ""
