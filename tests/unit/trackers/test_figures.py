import pytest

from poisonbench.storage.record import Record
from poisonbench.trackers.figures import curve_points, figures, numbers

RECORD = Record(
    spec={"seed": 0},
    metrics={"c_acc": 0.9, "asr": 0.1, "screen": {"auroc": 0.8}, "certified": [0.9, 0.5]},
    undefended={"c_acc": 0.95, "asr": 1.0, "r_acc": 0.0},
    baseline={"c_acc": 0.96},
    curves={"undefended": {"c_acc": [0.5, 0.7], "asr": [0.0, 1.0]}, "defended": {"round": [2.0], "c_acc": [0.6]}},
)


def test_the_table_has_a_row_a_victim_and_holes_where_nothing_applies():
    assert figures(RECORD) == {"baseline": [0.96, None, None], "undefended": [0.95, 1.0, 0.0], "defended": [0.9, 0.1, None]}


def test_numbers_have_flat_names_and_lists_are_left_out():
    told = numbers(RECORD)
    assert told["defended/screen/auroc"] == 0.8
    assert told["undefended/asr"] == 1.0
    assert not any("certified" in name for name in told)


def test_curves_come_round_by_round_sparse_ones_at_their_own_rounds():
    assert list(curve_points(RECORD)) == [
        {"round": 1.0, "undefended/c_acc": 0.5, "undefended/asr": 0.0},
        {"round": 2.0, "undefended/c_acc": 0.7, "undefended/asr": 1.0, "defended/c_acc": 0.6},
    ]


def test_tensorboard_writes_a_folder_a_record(tmp_path):
    pytest.importorskip("tensorboard")
    from poisonbench.trackers.tensorboard import TensorboardTracker

    TensorboardTracker(group="night").log(RECORD, tmp_path)
    assert list((tmp_path / "tensorboard" / "night" / RECORD.key).glob("events.out.*"))
