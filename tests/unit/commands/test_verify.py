"""What counts as the same record: bits, or figures within a tolerance."""

import dataclasses

import pytest

from poisonbench.cli import entry
from poisonbench.commands.verify import differences
from poisonbench.storage.record import Record

TOLD = Record(spec={"seed": 0}, metrics={"c_acc": 0.90, "certified": [0.9, 0.5], "removed": 100}, counts={"hits": 50}, keys={"fit": "fit-1"})


def again(**metrics: object) -> Record:
    return dataclasses.replace(TOLD, metrics={**TOLD.metrics, **metrics})


def test_equal_records_differ_in_nothing():
    assert not list(differences(TOLD, TOLD, 0.0))


@pytest.mark.parametrize(("change", "tolerance", "named"), [
    ({"c_acc": 0.901}, 0.0, "metrics.c_acc"),
    ({"c_acc": 0.93}, 0.02, "metrics.c_acc"),
    ({"removed": 103}, 0.02, "metrics.removed"),
    ({"certified": [0.9, 0.6]}, 0.02, "metrics.certified[1]"),
    ({"certified": [0.9]}, 0.02, "metrics.certified"),
])  # fmt: skip
def test_what_lies_beyond_the_tolerance_is_named(change, tolerance, named):
    (line,) = differences(TOLD, again(**change), tolerance)
    assert line.startswith(f"{named}: recorded ")


@pytest.mark.parametrize("change", [{"c_acc": 0.919}, {"removed": 102}, {"certified": [0.91, 0.49]}])
def test_what_lies_within_it_is_not(change):
    assert not list(differences(TOLD, again(**change), 0.02))


def test_a_figure_that_came_later_contradicts_nothing_and_one_that_is_gone_does():
    assert not list(differences(TOLD, again(extra=1), 0.0))
    assert list(differences(again(extra=1), TOLD, 0.02)) == ["metrics.extra: recorded 1, now None"]


def test_names_of_stored_values_have_to_be_equal_only_where_bits_have():
    other = dataclasses.replace(TOLD, keys={"fit": "fit-2"})
    assert list(differences(TOLD, other, 0.0))
    assert not list(differences(TOLD, other, 0.02))


def test_a_tolerance_that_is_no_number_is_one_sentence(capsys):
    assert entry(["verify", "tolerance=much", "record.json"]) == 2
    assert "give a number" in capsys.readouterr().err
