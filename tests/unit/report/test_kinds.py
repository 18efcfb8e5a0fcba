"""Kinds of runs: which tab a record belongs to, read from its slots."""

import dataclasses

import pytest

from poisonbench.report import kinds
from poisonbench.report.boards import boards
from poisonbench.report.cells import folded
from poisonbench.report.kinds import Kind, kind_of
from poisonbench.report.packing import packed
from tests.unit.report.test_leaderboard import made


def with_slot(slot: str, attack: str = "badnets"):
    """Return a record whose specification has one more slot, such as "defense.certify"."""
    record, (part, name) = made(attack=attack), slot.split(".")
    return dataclasses.replace(record, spec={**record.spec, part: {**record.spec[part], name: {"class": "x.Y", "version": 1}}})


@pytest.mark.parametrize(
    ("slot", "kind"),
    [
        ("attack.data", "data"),
        ("defense.repair", "data"),
        ("attack.train", "training"),
        ("attack.update", "federated"),
        ("defense.aggregate", "federated"),
        ("learner.client", "federated"),
        ("defense.certify", "certificates"),
    ],
)
def test_the_slots_of_a_record_say_its_kind(slot, kind):
    assert kind_of(with_slot(slot)).name == kind


def test_a_slot_that_is_empty_is_none():
    record = made()
    assert kind_of(dataclasses.replace(record, spec={**record.spec, "attack": {"name": "none", "update": None}})).name == "data"


def test_a_certificate_of_federated_learning_stands_with_the_certificates():
    record = with_slot("defense.certify")
    assert kind_of(dataclasses.replace(record, spec={**record.spec, "attack": {"name": "alie", "update": {}}})).name == "certificates"


def test_a_new_kind_is_a_declaration_and_nothing_else(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, Kind(name="text", title="Text", about="The training rows are sentences.", slots=("task.vocabulary",))))
    cells = folded([made(), with_slot("task.vocabulary", attack="sentences")])
    assert [board.kind for board in boards(cells)] == ["data", "text"]
    assert packed(cells)["kinds"][-1] == {"name": "text", "title": "Text", "about": "The training rows are sentences."}


def test_only_kinds_that_have_a_record_get_a_tab():
    assert [kind["name"] for kind in packed(folded([with_slot("defense.certify")]))["kinds"]] == ["certificates"]
