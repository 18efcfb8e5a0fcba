"""The summaries of the leaderboard, against records whose summary is worked out by hand."""

import dataclasses

import pytest

from poisonbench.report.boards import boards
from poisonbench.report.cells import folded
from poisonbench.report.packing import packed, skipped
from poisonbench.stats import intervals
from tests.unit.report.test_leaderboard import failed, made

FIT = {"baseline": {"c_acc": 0.9, "asr": 0.0}, "undefended": {"c_acc": 0.9, "asr": 1.0}}


def hit(attack: str, defense: str, *asr: float, c_acc: float = 0.9, **more: object):
    """One record a seed, with the ASR given; clean training has C-Acc 0.9 and ASR 0."""
    return [made(attack=attack, defense=defense, seed=seed, metrics={"c_acc": c_acc, "asr": height}, **FIT, **more) for seed, height in enumerate(asr)]


def calm(defense: str, *c_acc: float):
    """The defense without an attack."""
    return [made(attack="none", defense=defense, seed=seed, metrics={"c_acc": height}, baseline={"c_acc": 0.9}) for seed, height in enumerate(c_acc)]


def lowered(defense: str, *c_acc: float):
    """An attack without a target, which lowers accuracy."""
    told = [{"c_acc": height, "goal": {"c_acc_lost": 0.9 - height}} for height in c_acc]
    return [made(attack="degrade", defense=defense, seed=seed, metrics=metrics, baseline={"c_acc": 0.9}) for seed, metrics in enumerate(told)]


def only(records):
    (board,) = boards(folded(records))
    return board


def test_the_worst_case_is_the_attack_that_achieved_most_with_its_interval():
    board = only([*hit("badnets", "spectral", 0.1, 0.2, 0.3), *hit("sig", "spectral", 0.5, 0.6, 0.7), *hit("blended", "spectral", 0.0, 0.0, 0.9)])
    (standing,) = board.standings
    assert standing.worst.attack == "sig"
    assert standing.worst.harm == pytest.approx((0.6, 0.5, 0.7, *intervals([[0.5, 0.6, 0.7]])[0]))


def test_what_clean_training_does_anyway_is_no_damage():
    record = dataclasses.replace(hit("badnets", "spectral", 0.7)[0], baseline={"c_acc": 0.9, "asr": 0.6})
    assert only([record, *hit("sig", "spectral", 0.2)]).standings[0].worst.attack == "sig"


def test_the_damage_of_an_attack_without_a_target_is_the_accuracy_that_it_costs():
    board = only([*hit("badnets", "spectral", 0.1), *lowered("spectral", 0.7, 0.5)])
    (standing,) = board.standings
    assert (standing.worst.attack, standing.worst.damage) == ("degrade", "c_acc_lost")
    assert standing.worst.harm[:3] == pytest.approx((0.3, 0.2, 0.4))


def test_the_cost_is_the_accuracy_lost_without_an_attack_with_its_interval():
    board = only([*hit("badnets", "spectral", 0.1, 0.1, 0.1), *calm("spectral", 0.89, 0.88, 0.93), *hit("badnets", "strip", 0.2)])
    costs = {standing.defense: standing.cost for standing in board.standings}
    assert costs["spectral"] == pytest.approx((0.01, 0.0, 0.02, *intervals([[0.01, 0.02, 0.0]])[0]))
    assert costs["strip"] is None


def test_a_defense_that_met_fewer_attacks_stands_below_those_that_met_all():
    board = only([*hit("badnets", "spectral", 0.5), *hit("sig", "spectral", 0.4), *hit("badnets", "strip", 0.0)])
    assert [(standing.defense, standing.group, len(standing.cells)) for standing in board.standings] == [("spectral", "all", 2), ("strip", "some", 1)]
    assert [column.attack for column in board.standings[1].missing] == ["sig"]


def test_among_those_that_met_fewer_attacks_more_come_first():
    records = [*hit("badnets", "a", 0.9), *hit("sig", "a", 0.9), *hit("blended", "b", 0.9), *hit("badnets", "b", 0.9), *hit("badnets", "c", 0.0)]
    assert [standing.defense for standing in only(records).standings] == ["a", "b", "c"]


def test_of_equal_worst_cases_the_one_that_costs_less_comes_first():
    records = [*hit("badnets", "a", 0.1), *hit("badnets", "b", 0.1), *calm("a", 0.87), *calm("b", 0.89)]
    assert [standing.defense for standing in only(records).standings] == ["b", "a"]


def test_a_defense_that_loses_too_much_accuracy_stands_apart_with_its_reason():
    records = [*hit("badnets", "spectral", 0.5), *hit("badnets", "constant", 0.0, c_acc=0.1), *hit("sig", "constant", 0.0), *hit("sig", "spectral", 0.5)]
    board = only(records)
    assert [(standing.defense, standing.group) for standing in board.standings] == [("spectral", "all"), ("constant", "unranked")]
    (cell,) = board.standings[1].unranked
    assert cell.attack == "badnets"
    assert "80.0 points" in cell.unranked


def test_a_cost_above_five_points_is_too_much_though_no_attack_has_a_target():
    board = only([*lowered("dear", 0.9), *lowered("cheap", 0.8), *calm("dear", 0.84), *calm("cheap", 0.85)])
    assert [(standing.defense, standing.group) for standing in board.standings] == [("cheap", "all"), ("dear", "unranked")]


def test_a_failed_seed_counts_as_an_attack_that_succeeded():
    board = only([*hit("badnets", "spectral", 0.1), failed(1), *hit("badnets", "strip", 0.2)])
    assert [(standing.defense, standing.worst.harm.mean) for standing in board.standings] == [("strip", 0.2), ("spectral", pytest.approx(0.55))]


def test_no_defense_and_one_that_knows_the_poison_are_for_comparison():
    (oracle,) = hit("badnets", "oracle", 0.0)
    oracle = dataclasses.replace(oracle, spec={**oracle.spec, "defense": {**oracle.spec["defense"], "needs": ["truth"]}})
    board = only([*hit("badnets", "none", 1.0), oracle, *hit("badnets", "spectral", 0.5)])
    assert [(standing.defense, standing.group, standing.reference) for standing in board.standings] == [
        ("spectral", "all", ""),
        ("oracle", "reference", "knows which rows are poison"),
        ("none", "reference", "no defense"),
    ]


def test_what_only_the_undefended_model_met_is_no_attack_to_miss():
    board = only([*hit("badnets", "none", 1.0), *hit("sig", "none", 1.0), *hit("sig", "spectral", 0.1)])
    assert [column.attack for column in board.columns] == ["sig"]
    assert [standing.group for standing in board.standings] == ["all", "reference"]


def at(setting: str, records):
    return [dataclasses.replace(record, command=f"{record.command} {setting}") for record in records]


def test_each_attack_stands_in_the_setting_that_most_defenses_met():
    plain = [record for name in "abcdef" for record in hit("badnets", name, 0.1)]
    board = only([*plain, *at("net=mlp", [*hit("badnets", "a", 0.9), *hit("badnets", "b", 0.9)]), *at("net=mlp", hit("sig", "a", 0.2))])
    assert [(column.attack, column.setting) for column in board.columns] == [("badnets", ""), ("sig", "net=mlp")]


def test_a_further_setting_that_half_of_the_defenses_met_is_a_column_too():
    plain = [record for name in "abcd" for record in hit("badnets", name, 0.1)]
    board = only([*plain, *at("net=mlp", [*hit("badnets", "a", 0.9), *hit("badnets", "b", 0.8)])])
    assert [column.setting for column in board.columns] == ["", "net=mlp"]
    assert [(standing.defense, standing.group) for standing in board.standings] == [("b", "all"), ("a", "all"), ("c", "some"), ("d", "some")]


def skip(attack: str, defense: str, reason: str):
    return made(attack=attack, defense=defense, status="skipped", reason=reason, metrics={}, undefended={}, baseline={})


def test_pairs_that_cannot_be_run_are_listed_with_their_reason_and_stand_in_no_board():
    records = [*hit("badnets", "spectral", 0.1), *hit("sig", "spectral", 0.1), *hit("badnets", "strip", 0.1)]
    records += [skip("sig", "strip", "no place"), skip("badnets", "krum", "no slot"), skip("sig", "krum", "no slot")]
    cells = folded(records)
    (board,) = boards(cells)
    assert {standing.defense for standing in board.standings} == {"spectral", "strip"}
    assert [column.attack for column in board.standings[1].barred] == ["sig"]
    assert skipped(cells) == [("no slot", [("digits", "krum", ["badnets", "sig"])]), ("no place", [("digits", "strip", ["sig"])])]
    whole = packed(cells)
    assert {(cell["a"], cell["d"]) for cell in whole["cells"]} == {("badnets", "spectral"), ("sig", "spectral"), ("badnets", "strip")}
    assert whole["boards"][0]["standings"][1] | {"worst": 0} == {
        "d": "strip",
        "group": "some",
        "worst": 0,
        "cost": None,
        "cells": [1, None],
        "barred": [1],
        "reference": "",
    }


def test_records_of_skipped_pairs_alone_make_a_page_without_tabs():
    assert packed(folded([skip("sig", "krum", "no slot")]))["kinds"] == []


def proof(defense: str, radius: int | None, unit: str, curve: list[float], **more: object):
    metrics = {"c_acc": 0.9, "certified": curve, "radius_unit": unit} | ({} if radius is None else {"median_radius": radius})
    record = made(defense=defense, metrics=metrics, **{"attack": "none", "baseline": {"c_acc": 0.95}} | more)
    return dataclasses.replace(record, spec={**record.spec, "defense": {**record.spec["defense"], "certify": {"class": "x.Y"}}})


def test_certificates_are_sorted_by_median_radius_within_what_radii_count():
    rows, labels = "inserted rows", "flipped labels"
    records = [proof("a", 3, rows, [0.9, 0.8]), proof("b", 7, rows, [0.9, 0.8]), proof("c", 99, labels, [0.9, 0.8]), proof("d", 7, rows, [0.95, 0.8])]
    board = only(records)
    assert board.kind == "certificates"
    assert {unit: [cell.defense for cell in cells] for unit, cells in board.proofs.items()} == {rows: ["d", "b", "a"], labels: ["c"]}
    assert board.standings == []
    assert board.proofs[labels][0].cost[0] == pytest.approx(0.05)


def test_a_certificate_that_proves_fewer_than_half_of_the_rows_has_the_radius_of_a_wrong_answer():
    (cell,) = only([proof("a", None, "rows", [0.4, 0.1])]).proofs["rows"]
    assert cell.figures["median_radius"].mean == -1


def test_certificates_under_an_attack_stand_in_for_those_that_are_missing_without_one():
    records = [proof("a", 3, "rows", [0.9]), proof("a", 9, "rows", [0.9], attack="badnets"), proof("b", 5, "rows", [0.9], attack="badnets")]
    assert [(cell.defense, cell.attack) for cell in only(records).proofs["rows"]] == [("b", "badnets"), ("a", "none")]


def test_records_of_two_learners_are_never_one_cell():
    record = made()
    other = dataclasses.replace(
        record,
        spec={**record.spec, "learner": {"class": "poisonbench.learn.closed_form.LinearRidge"}, "seed": 1},
        command=f"{record.command} +experiment=solved",
    )
    assert sorted((cell.learner, cell.setting) for cell in folded([record, other])) == [("Central", ""), ("LinearRidge", "+experiment=solved")]


def test_records_of_an_experiment_that_sets_nothing_else_join_those_of_the_same_words():
    record = made()
    other = dataclasses.replace(record, spec={**record.spec, "seed": 1}, command=f"{record.command} +experiment=seeds")
    (cell,) = folded([record, other])
    assert (len(cell.seeds), cell.setting) == (2, "")


def test_the_committed_summary_of_federated_rules_is_that_of_the_records():
    """Worked out from the CSV by hand: Krum keeps the backdoor out, and loses 36 points of C-Acc on rows dealt unevenly."""
    from poisonbench.core.plugins import HOME
    from poisonbench.report.tables import published

    board = next(board for board in boards(folded(published(HOME / "results" / "records"))) if (board.kind, board.task) == ("federated", "digits"))
    standings = {standing.defense: standing for standing in board.standings}
    assert standings["krum"].group == "unranked"
    assert standings["krum"].cost.mean == pytest.approx(0.357, abs=0.001)
    assert standings["none"].worst.harm.mean > 0.99
    assert standings["multi_krum"].group == "all"
    assert standings["multi_krum"].worst.harm.mean < 0.01
