"""The salt of the defender's draws."""

import json

import pytest

from poisonbench.commands.export import main as export
from poisonbench.commands.show import main as show
from poisonbench.commands.verify import main as verify
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import Line, run, spec
from poisonbench.storage.store import Store
from tests.conftest import tiny_words

DEFENDED = ("attack=backdoor", "defense=dpa", "defense.train.parts=5", "learner.epochs=1")


def lines(tiny, store, salt: str, count: int = 2) -> list[Line]:
    return [Line(experiment=tiny(f"salt={salt}"), store=store) for _ in range(count)]


def test_without_a_salt_every_stream_is_that_of_the_seed_and_the_spec_says_nothing(tiny, store):
    experiment = tiny()
    line = Line(experiment=experiment, store=store)
    for stage in ("fit", "sanitize/trial 1", "repair", "screen/test", "surrogate", "public"):
        assert line.stream(stage) == Key.root(0).child(stage)
    assert "salt" not in spec(experiment)


def test_a_text_moves_the_streams_of_the_defender_and_of_nobody_else(tiny, store):
    (one, again), (other,) = lines(tiny, store, "mine"), lines(tiny, store, "another", 1)
    for stage in ("fit", "fit/trial 1", "sanitize", "repair", "screen/test"):
        assert one.stream(stage) == again.stream(stage)
        assert len({key.digest for key in (one.stream(stage), other.stream(stage), Key.root(0).child(stage))}) == 3
    for stage in ("surrogate", "surrogate/1", "public", "targets", "poison"):
        assert one.stream(stage) == Key.root(0).child(stage)
    assert spec(one.experiment)["salt"] == "mine"


def test_the_system_draws_a_secret_for_every_run(tiny, store):
    one, other = lines(tiny, store, "system")
    assert one.stream("fit") == one.stream("fit")
    assert one.stream("fit") != other.stream("fit")
    assert one.stream("fit") != Key.root(0).child("fit")


def test_a_secret_is_in_no_file_and_what_was_trained_under_it_is_not_found_again(tiny, store):
    experiment = tiny(*DEFENDED, "salt=system")
    one, other = (run(experiment, store) for _ in range(2))
    assert one.spec["salt"] == "system"
    assert one.keys["poison"] == other.keys["poison"]
    assert one.keys["fit defended"] != other.keys["fit defended"]
    line = Line(experiment=experiment, store=store)
    line.fit(line.defended, experiment.task.train, line.honest)
    path = one.write(store.root)
    for file in (path, *store.root.iterdir()):
        assert line.secret.digest.encode() not in file.read_bytes()
    for command in (verify, export, show):
        with pytest.raises(ConfigError, match="cannot be repeated"):
            command([str(path)])


@pytest.mark.parametrize("words", [DEFENDED, ("defense=randomized_ablation", "defense.train.draws=5", "defense.certify.draws=10", "learner.epochs=1")])
def test_no_file_holds_a_value_that_was_drawn_from_the_secret(tiny, store, words):
    record = run(tiny("attack=backdoor", *words, "salt=system"), store)
    assert record.status == "done"
    assert {path.name.partition("-")[0] for path in store.root.iterdir()} == {"poison"}
    assert not [name for name in record.facts if name.startswith("_")]


def test_the_poison_is_that_of_the_seed_whatever_the_salt(tiny, store):
    digests = {Line(experiment=tiny("attack=backdoor", *words), store=store).strike().data.digest for words in ((), ("salt=mine",), ("salt=system",))}
    assert len(digests) == 1


def test_the_parts_of_an_ensemble_follow_the_salt(tiny, store):
    records = [run(tiny(*DEFENDED, *words), store) for words in ((), ("salt=mine",), ("salt=mine",))]
    sizes = [json.dumps([record.facts["rows_of_smallest"], record.facts["rows_of_largest"], record.metrics["c_acc"]]) for record in records]
    assert records[1].result_digest == records[2].result_digest
    assert records[0].keys["fit defended"] != records[1].keys["fit defended"]
    assert sizes[0] != sizes[1]


def test_an_empty_salt_and_a_secret_for_each_of_many_processes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="give a text"):
        assemble(tree_of(tiny_words("salt=")), Store(tmp_path))
    with pytest.raises(ConfigError, match="torchrun"):
        assemble(tree_of(tiny_words("salt=system")), Store(tmp_path, alone=True))
