import dataclasses

import pytest

from poisonbench.commands.report import main
from poisonbench.report import shares
from poisonbench.report.figures import Failures
from poisonbench.storage.record import Record
from tests.unit.report.test_leaderboard import made


def kept(attack: str, how: str, share: float, seed: int, **figures: float) -> Record:
    """Return a record of 40 poisoned rows, of which the filter keeps half."""
    told = made(attack=attack, defense="data_subset", seed=seed)
    command = f"python -m poisonbench attack={attack} defense=data_subset defense.sanitize.how={how} defense.sanitize.share={share} seed={seed}"
    sanitize = {"class": "defenses.sanitize.data_subset.DataSubset", "version": 1, "share": share, "how": how}
    counts = {"poisoned": 0 if attack == "none" else 40, "poisoned_kept": 0 if attack == "none" else 20, "classes": 10}
    return dataclasses.replace(
        told,
        command=f"{command} +experiment=data_subset",
        spec={**told.spec, "defense": {"name": "data_subset", "sanitize": sanitize}},
        metrics={"c_acc": 0.9, **figures},
        undefended={"c_acc": 0.95, **{name: 1.0 for name in figures}},
        baseline={"c_acc": 0.97, **{name: 0.01 for name in figures}},
        counts=counts,
    )


def records() -> list[Record]:
    attacked = [kept("badnets", how, share, seed, asr=share) for how in ("random", "el2n") for share in (0.1, 0.5) for seed in (0, 1)]
    return [*attacked, *(kept("none", how, share, 0) for how in ("random", "el2n") for share in (0.1, 0.5))]


def test_the_undefended_victim_stands_at_a_share_of_one():
    mine = [record for record in records() if "badnets" in record.command and "how=el2n" in record.command]
    failures = Failures.among(mine)
    assert shares._spots(mine, "ASR", failures) == {0.1: [0.1, 0.1], 0.5: [0.5, 0.5], 1.0: [1.0] * 4}
    assert shares._spots(mine, "poison kept", failures) == {0.1: [0.5, 0.5], 0.5: [0.5, 0.5], 1.0: [1.0] * 4}


def test_a_run_without_poison_has_no_share_of_it():
    assert shares._spots([kept("none", "random", 0.1, 0)], "poison kept", Failures.among([])) == {}


def test_a_failed_seed_is_a_success_of_the_attack_and_is_counted_in_the_legend(tmp_path):
    mine = records()
    mine[0] = dataclasses.replace(mine[0], status="failed", reason="out of memory", metrics={}, undefended={}, baseline={}, counts={})
    assert shares._spots(mine[:2], "ASR", Failures.among(mine)) == {0.1: [1.0, 0.1], 1.0: [1.0]}
    shares.draw(mine, mine, tmp_path / "figure.svg")
    assert "random (1 seed failed)" in (tmp_path / "figure.svg").read_text()


def test_only_filters_that_keep_a_share_are_drawn():
    assert shares.of(records(), "trigger_size") == []
    assert len(shares.of([*records(), made()], "data_subset")) == len(records())


def test_a_part_of_the_experiment_is_drawn_with_it():
    part = kept("gradient_matching", "random", 0.1, 0, asr=0.5)
    part = dataclasses.replace(part, command=part.command.replace("+experiment=data_subset", "+experiment=data_subset_matching"))
    assert len(shares.of([*records(), part], "data_subset")) == len(records()) + 1
    assert shares.of([*records(), part], "data_subset_matching") == [part]


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_the_figure_is_the_same_every_time(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    for record in records():
        record.write(tmp_path / "results" / "records")
    drawn = []
    for _ in range(2):
        assert main([f"data_subset.{kind}"]) == 0
        drawn.append((tmp_path / f"data_subset.{kind}").read_bytes())
    assert drawn[0] == drawn[1]
    if kind == "svg":
        assert all(text in drawn[0].decode() for text in ("badnets", "none", "random", "el2n", "poison kept", "ASR", "C-Acc", "share of rows kept"))
