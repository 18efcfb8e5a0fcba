"""What would be run, before it runs."""

import dataclasses

import pytest

from poisonbench.cli import entry
from poisonbench.config.compose import tree_of
from poisonbench.runner.experiment import Loaded, assemble
from poisonbench.storage.record import read
from poisonbench.storage.store import Store
from poisonbench.sweep.dry_run import foreseen, seconds
from tests.conftest import TINY


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(*more: str) -> list[str]:
    return [*TINY, "attack=backdoor", "threat.budget.rate=0.2", *more]


def test_a_cell_goes_from_unknown_to_the_store_and_its_kin_tell_its_time(here):
    first = next(iter(foreseen([words("seed=100")])))
    assert (first.state, first.stages) == ("to run", {})
    assert "no record" in first.reason
    assert entry(words("seed=100")) == 0
    same, other = foreseen([words("seed=100"), words("seed=101")])
    assert same.state == "in the store"
    assert other.state == "to run"
    assert seconds([other]) > 0


def test_what_two_cells_share_is_counted_once(here):
    assert entry(words("seed=100", "defense=spectral")) == 0
    alone = list(foreseen([words("seed=101", "defense=spectral")]))
    assert seconds([*alone, *alone]) == seconds(alone)
    both = list(foreseen([words("seed=101", "defense=spectral"), words("seed=102", "defense=spectral")]))
    assert seconds(both) == pytest.approx(2 * seconds(alone))


def test_what_would_be_skipped_or_refused_is_said_beforehand(here):
    skipped, refused = foreseen([words("attack=wanet_training", "defense=spectral"), words("threat.budget.rate=7")])
    assert (skipped.state, refused.state) == ("skipped", "refused")
    assert skipped.reason
    assert "rate" in refused.reason


def test_a_dry_run_computes_nothing_and_tells_the_sum(here, capsys):
    assert entry(["--dry-run", "-m", *words("seed=100,101")]) == 0
    out = capsys.readouterr().out
    assert "2 cells: 2 to run" in out
    assert out.endswith("no estimate: there is no record of the same recipe\n")
    assert "minutes" not in out
    assert not list(here.glob("results/records/*"))
    assert entry(["--dry-run", *words("threat.budget.rate=7")]) == 2


def test_a_task_is_loaded_once_for_equal_sources_and_again_when_somebody_wrote_into_its_rows(tmp_path):
    loaded, store = Loaded(), Store(tmp_path)
    task = assemble(tree_of(words("seed=1")), store, loaded=loaded).task
    assert assemble(tree_of(words("seed=2")), store, loaded=loaded).task is task
    assert assemble(tree_of(words("task.split_seed=1")), store, loaded=loaded).task.digest != task.digest
    task = assemble(tree_of(words()), store, loaded=loaded).task
    clean = task.digest
    task.train.labels[0] = (task.train.labels[0] + 1) % task.train.num_classes
    again = assemble(tree_of(words()), store, loaded=loaded).task
    assert again is not task
    assert again.digest == clean


def test_the_last_record_of_the_nearest_recipe_tells_the_time(here):
    for seed in ("100", "101"):
        assert entry(words(f"seed={seed}", "defense=random_drop")) == 0
    told, other = foreseen([words("seed=102", "defense=random_drop"), words("seed=102", "defense=spectral")])
    last = max((read(path) for path in here.glob("results/records/*.json")), key=lambda record: record.command)
    assert seconds([told]) == pytest.approx(sum(last.cost["seconds"].values()))
    assert other.stages  # of another defense, for want of a nearer one


def test_a_record_without_all_parts_of_a_recipe_is_no_kin_of_any_cell(here):
    """A record of another version may lack them; its own digest is right."""
    assert entry(words("seed=100", "defense=random_drop")) == 0
    (path,) = here.glob("results/records/*.json")
    record = read(path)
    path.unlink()
    dataclasses.replace(record, spec={name: part for name, part in record.spec.items() if name != "net"}).write(path.parent)
    (told,) = foreseen([words("seed=102", "defense=random_drop")])
    assert (told.state, told.reason) == ("to run", "there is no record of its recipe to estimate the time from")
