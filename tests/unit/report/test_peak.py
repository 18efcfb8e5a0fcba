from poisonbench.report.tables import COLUMNS, table
from tests.unit.report.test_leaderboard import made

CURVES = {"undefended": {"c_acc": [0.2, 0.4]}, "defended": {"c_acc": [0.3, 0.75, 0.5]}}


def line(text: str) -> list[str]:
    return [part.strip() for part in text.splitlines()[2].strip("|").split("|")]


def test_the_peak_is_the_largest_accuracy_of_the_defended_model_over_the_epochs():
    shown = table([made(curves=CURVES), made(seed=1, curves={"defended": {"c_acc": [0.65, 0.1], "epoch": [1.0, 3.0]}})])
    heads = [part.strip() for part in shown.splitlines()[0].strip("|").split("|")]
    assert line(shown)[heads.index("peak C-Acc")] == "70.0 (65.0 to 75.0)"


def test_learners_that_train_in_rounds_and_records_without_curves_have_no_peak():
    assert "peak C-Acc" in COLUMNS
    for record in (made(), made(curves=CURVES, facts={"rounds": 3}), made(curves={"undefended": {"c_acc": [0.2]}})):
        assert "peak" not in table([record])
