import dataclasses
import math

import pytest
import torch

from attacks.supply.supply_chain import SupplyChain
from poisonbench.cli import entry
from poisonbench.core.attack import Untouched
from poisonbench.core.audit import audit
from poisonbench.core.errors import BudgetError, ConfigError
from poisonbench.core.manifest import NOTHING_SIGNED, row_digests, signed
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from poisonbench.storage.record import read
from tests.conftest import TINY

POISON = ("attack=supply_chain", "defense=signed_manifest", "threat.budget.rate=0.1")  # 38 of the 380 rows of blobs


def test_rows_that_change_after_signing_are_all_removed_and_no_other(tiny, shared):
    record = run(tiny(*POISON, "attack.data.manifest=kept"), shared)
    assert (record.metrics["removed"], record.metrics["tpr"], record.metrics["fpr"]) == (38, 1, 0)
    assert record.counts["poisoned_kept"] == record.counts["poisoned_listed"] == 0
    assert record.counts["listed"] == record.counts["benign"] == record.counts["benign_kept"] == 342
    assert record.undefended["asr"] > 0.9
    assert record.metrics["asr"] < 0.5  # 0.14 without any attack; the removed rows are all of the other classes, so the target class has more rows


def test_a_list_with_another_key_is_refused_with_all_rows(tiny, shared):
    record = run(tiny(*POISON, "attack.data.manifest=own_key"), shared)
    assert record.status == "skipped"
    assert record.reason == (
        "defense=signed_manifest refuses all 380 training rows and keeps none: the list that came with them is not valid, it is signed with the key of "
        "the attacker, not with that of the publisher"
    )
    assert record.metrics == record.undefended == {}
    assert {name: record.counts[name] for name in ("benign", "benign_kept", "poisoned", "poisoned_kept")} == {
        "benign": 342,
        "benign_kept": 0,
        "poisoned": 38,
        "poisoned_kept": 0,
    }


def test_refused_rows_are_counted_over_all_trials(tiny, shared):
    record = run(tiny(*POISON, "attack.data.manifest=own_key", "threat.trials=2"), shared)
    assert (record.status, record.counts["trials"], record.counts["train"]) == ("skipped", 2, 380)
    assert [record.counts[name] for name in ("benign", "benign_kept", "poisoned", "poisoned_kept")] == [684, 0, 76, 0]


def test_with_an_old_list_the_poison_is_removed_and_so_are_the_clean_rows_that_were_added_since(tiny, shared):
    experiment = tiny(*POISON, "attack.data.manifest=replayed", "attack.data.earlier=0.75")
    record, struck = run(experiment, shared), Line(experiment=experiment, store=shared).struck()
    old = len(struck.manifest)
    assert old == 285  # three quarters of 380
    clean = experiment.task.train
    lost = int((~struck.manifest.lists(row_digests(clean)) & ~struck.mask).sum())  # benign rows that the old version did not have
    assert lost >= 380 - 285 - 38
    assert record.metrics["tpr"] == 1
    assert record.metrics["removed"] == 38 + lost
    assert math.isclose(record.metrics["fpr"], lost / 342)
    assert (record.counts["benign_kept"], record.counts["poisoned_kept"]) == (342 - lost, 0)


def test_poison_that_was_signed_stays_and_the_record_counts_it(tiny, shared):
    record = run(tiny(*POISON, "attack.data.manifest=before"), shared)
    assert (record.metrics["removed"], record.metrics["tpr"], record.metrics["fpr"]) == (0, 0, 0)
    assert record.counts["poisoned_listed"] == record.counts["poisoned"] == record.counts["poisoned_kept"] == 38
    assert record.metrics["asr"] == record.undefended["asr"] > 0.9


def test_an_attack_that_names_no_list_poisons_before_the_rows_are_signed(tiny, shared):
    before, plain = (
        run(tiny(f"attack={name}", *more, *POISON[1:]), shared) for name, more in (("supply_chain", ["attack.data.manifest=before"]), ("badnets", []))
    )
    assert plain.counts == before.counts
    assert plain.metrics["tpr"] == before.metrics["tpr"] == 0


@pytest.mark.parametrize("manifest", ["kept", "own_key", "replayed", "before"])
def test_the_list_changes_neither_the_rows_nor_the_undefended_model(tiny, shared, manifest):
    plain, chain = (
        Line(experiment=tiny(*words), store=shared).strike() for words in (("attack=badnets",), ("attack=supply_chain", f"attack.data.manifest={manifest}"))
    )
    assert plain.data.digest == chain.data.digest
    assert torch.equal(plain.mask, chain.mask)


def test_injected_rows_are_not_in_the_list_of_the_clean_rows(tiny, shared):
    experiment = tiny("attack=canaries", "threat.budget.rate=0.4", "defense=signed_manifest")
    experiment = dataclasses.replace(
        experiment, attack=dataclasses.replace(experiment.attack, data=SupplyChain(manifest="kept", earlier=1.0, like=experiment.attack.data))
    )
    line = Line(experiment=experiment, store=shared)
    poisoned = line.strike()
    assert poisoned.kinds.injected.any()
    keep = line.judge(poisoned).keep
    assert torch.equal(~keep, poisoned.kinds.poison)


def forged(known, data, **changes):
    poisoned = dataclasses.replace(Untouched().poison(known, None), data=data, mask=known.mask(torch.tensor([3])))
    return dataclasses.replace(poisoned, **changes)


def test_the_referee_refuses_a_forged_signature_and_none_of_the_lists_that_an_attacker_has(tiny, shared):
    line = Line(experiment=tiny(*POISON), store=shared)
    known = line.known()
    data = known.rows.edit(torch.tensor([3]), labels=(known.rows.labels[3:4] + 1) % known.rows.num_classes)
    verdict = lambda manifest: audit(known.rows, forged(known, data, manifest=manifest), known.budget, known.writable)  # noqa: E731
    with pytest.raises(BudgetError, match="forged the publisher's signature: 1 rows of its list were never signed"):
        verdict(signed(data))
    edited = dataclasses.replace(signed(known.rows), rows=row_digests(data))  # an old signature over a new list
    assert edited.fault() == "it is not the list that the publisher signed"
    for manifest in (None, NOTHING_SIGNED, signed(data, "somebody"), signed(known.rows), signed(known.rows.take(torch.arange(9))), edited):
        verdict(manifest)


def test_a_digest_depends_on_every_value_of_a_row_and_not_on_its_place():
    from poisonbench.core.data import Dataset

    rows = Dataset.of(torch.tensor([[1, 2], [3, 4], [1, 2]], dtype=torch.uint8), torch.tensor([0, 1, 0]), num_classes=2)
    first, second, third = row_digests(rows)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    moved = rows.take(torch.tensor([1, 0])).with_columns(rows.take(torch.tensor([1, 0])).columns | {"ids": torch.tensor([7, 8])})
    assert torch.equal(row_digests(moved), torch.stack([second, first]))
    for changes in ({"labels": torch.tensor([1])}, {"inputs": torch.tensor([[1, 3]], dtype=torch.uint8)}):
        assert not torch.equal(row_digests(rows.edit(torch.tensor([0]), **changes))[0], first)
    assert len(row_digests(rows.take(torch.arange(0)))) == 0


def test_an_audit_of_rows_that_nobody_signed_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(["audit", *TINY, "defense=signed_manifest"]) == 2
    error = capsys.readouterr().err
    assert "refuses all 400 training rows and keeps none: the list that came with them is not valid, nobody signed one" in error
    assert "Traceback" not in error


def test_a_refused_training_set_ends_the_command_with_its_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry([*TINY, "attack=supply_chain", "attack.data.manifest=own_key", "defense=signed_manifest"]) == 0
    said = capsys.readouterr()
    assert "refuses all 380 training rows" in said.out.replace("\n", " ") + said.err
    assert "kept: 0 of 361 benign rows, 0 of 19 poisoned rows\n" in said.out
    (path,) = tmp_path.glob("results/records/*.json")
    assert read(path).status == "skipped"
    assert read(path).counts["benign"] == 361


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("kept", "signed list: it names 361 of the rows, 0 of 19 poisoned rows among them\n"),
        ("before", "19 of 19 poisoned rows among them; the poison was there before the rows were signed, so the list cannot find it\n"),
    ],
)
def test_the_command_says_whether_the_list_names_the_poison(tmp_path, monkeypatch, capsys, manifest, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    assert entry([*TINY, "attack=supply_chain", f"attack.data.manifest={manifest}", "defense=signed_manifest"]) == 0
    assert said in capsys.readouterr().out


def test_an_earlier_version_without_rows_is_refused():
    with pytest.raises(ConfigError, match=r"attack\.data\.earlier=0: give the share"):
        SupplyChain(manifest="replayed", earlier=0, like=Untouched())
