"""Attacks and defenses that read any form, on a table of numbers with classical learners."""

import pytest
import torch

from defenses.train.dpa import divided
from poisonbench.config.compose import tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
from poisonbench.forms.reals import Reals
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

SEED = "seed=100"
MODES = [f"attack.data.mode={mode}" for mode in ("pair", "uniform", "class_targeted", "loss_ranked")]
FILTERS = ("knn_outlier", "spectral", "activation_clustering", "deep_knn", "trusted_outlier", "random_drop")
ENSEMBLES = ("dpa", "ss_dpa", "run_off_election", "hash_bagging", "bagging")


def asked(store, *words: str):
    return assemble(tree_of(["task=breast_cancer", SEED, "threads=1", *words]), store)


@pytest.mark.parametrize("words", [("attack=label_flip", mode, "attack.data.source=1", "attack.data.target=0", "threat.budget.rate=0.4") for mode in MODES])
def test_flipped_labels_cost_accuracy(shared, words):
    record = run(asked(shared, *words), shared)
    assert record.status == "done"
    assert record.baseline["c_acc"] > 0.93
    assert record.undefended["goal"]["c_acc_lost"] > 0.04


def test_a_targeted_flip_around_a_row_of_a_table_is_done(shared):
    record = run(asked(shared, "attack=label_flip_targeted", "threat.trials=5", "threat.budget.rate=0.05"), shared)
    assert record.undefended["asr"] > record.baseline["asr"]


@pytest.mark.parametrize("name", FILTERS)
def test_filters_look_at_the_standardised_inputs(shared, name):
    record = run(asked(shared, "attack=label_flip", "threat.budget.rate=0.1", f"defense={name}", "learner=svm"), shared)
    assert record.status == "done"
    assert record.metrics["removed"] > 0


@pytest.mark.parametrize("name", ["knn_outlier", "deep_knn"])
def test_neighbours_find_flipped_labels_in_a_table(shared, name):
    record = run(asked(shared, "attack=label_flip", "threat.budget.rate=0.1", f"defense={name}", "learner=svm"), shared)
    assert record.metrics["tpr"] > max(0.4, 3 * record.metrics["fpr"])


@pytest.mark.parametrize("learner", ["logistic", "svm", "trees"])
@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_have_classical_members(shared, name, learner):
    fewer = {"bagging": "members"}.get(name, "parts")
    few = ["learner.trees=10"] if learner == "trees" else []
    record = run(asked(shared, f"defense={name}", f"defense.train.{fewer}=9", f"learner={learner}", *few), shared)
    assert record.status == "done"
    assert record.metrics["c_acc"] > 0.85


def test_a_relabelled_row_of_a_table_changes_the_answer_of_one_member(store):
    experiment = asked(store, "defense=dpa", "defense.train.parts=9")
    line = Line(experiment=experiment, store=store)
    rows, test = experiment.task.train, experiment.task.test
    edited = rows.edit(torch.tensor([7]), labels=1 - rows.labels[7:8])
    victims = [line.fit(line.defended, data, line.honest) for data in (rows, edited)]
    one, other = (victim.tally(test.inputs).answers_MR for victim in victims)
    assert (one != other).any(0).sum() <= 1


def test_a_sorted_split_of_a_table_has_equal_parts_and_reads_no_label():
    inputs = torch.randn(40, 3, generator=Key.root(100).torch())
    data = Dataset.of(inputs, torch.arange(40) % 2, num_classes=2, form=Reals.numbered(3))
    parts = divided(data, 4, Key.root(0), "sorted")
    turned = divided(data.edit(torch.arange(40), labels=1 - data.labels), 4, Key.root(0), "sorted")
    assert [len(part) for part in parts] == [10] * 4
    assert all(one.inputs.equal(other.inputs) for one, other in zip(parts, turned, strict=True))


def test_a_feature_trigger_moves_rows_to_the_target_and_its_values_alone_do_not(shared):
    record = run(asked(shared, "attack=feature_trigger"), shared)
    assert record.undefended["asr"] > record.baseline["asr"] + 0.5
    assert record.undefended["c_acc"] > record.baseline["c_acc"] - 0.03


@pytest.mark.parametrize("words", [("attack=badnets",), ("defense=neural_cleanse", "net=mlp", "learner=small")])
def test_plugins_for_pictures_are_skipped_with_a_reason(shared, words):
    record = run(asked(shared, *words), shared)
    assert record.status == "skipped"
    assert "breast_cancer are reals" in record.reason


def test_a_network_learns_from_numbers_in_their_own_units(shared):
    assert run(asked(shared, "net=mlp", "learner=small"), shared).undefended["c_acc"] > 0.93
