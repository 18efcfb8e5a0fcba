"""What tests share: one tiny experiment on made-up images, trained in under a second."""

from __future__ import annotations

import dataclasses

import pytest

from poisonbench.config.compose import tree_of
from poisonbench.runner.experiment import adopt_own_packages, assemble
from poisonbench.runner.pipeline import Experiment
from poisonbench.storage.store import Store

BASE = ("task=blobs", "net.widths=[8,16]", "net.depths=[1,1]", "threads=1")
SHORT = {
    "Central": ("learner.epochs=4", "learner.batch_size=32", "learner.lr=0.1"),
    "Federated": ("learner.client.epochs=2", "learner.client.lr=0.1", "learner.rounds=4", "task.clients=9", "threat.budget.clients=0.34"),
    "Transfer": ("learner.extractor.epochs=4", "learner.extractor.batch_size=32", "learner.extractor.lr=0.1", "learner.head.lr=0.1", "threat.trials=2"),
}
SHORT |= {"LinearRidge": (), "KernelRidge": ()}
FEWER = {"iterations": 20, "steps": 5, "restarts": 2, "turns": 2}  # of attacks that optimise
CHEAP = {  # of defenses that train many models, or optimise
    "strip": ("defense.screen.overlays=5",),
    "neural_cleanse": ("defense.repair.steps=20",),
    **{name: ("defense.train.parts=5",) for name in ("dpa", "collective", "ss_dpa", "run_off_election", "hash_bagging")},
    "dp_ensemble": ("defense.train.members=3",),
    "randomized_ablation": ("defense.train.draws=10", "defense.certify.draws=20"),
    "finite_aggregation": ("defense.train.parts=3", "defense.train.spread=2"),
    "bagging": ("defense.train.members=5",),
}
SPEC = {  # what every record's specification has, at the least
    **{part: {"name": "none"} for part in ("attack", "defense")},
    "task": {"name": "blobs", "rows": {"train": 380}},
    "threat": {"budget": {"rate": 0.05}},
    "seed": 0,
}
TINY = (*BASE, *SHORT["Central"])


def tiny_words(*words: str) -> list[str]:
    """Return the words of a tiny run of whatever learner and attack `words` bring along."""
    tree = tree_of([*BASE, *words])
    recipe = SHORT[tree["learner"]["_target_"].rpartition(".")[2]]
    data = tree["attack"].get("data", {})
    fewer = [f"attack.data.{name}={count}" for name, count in FEWER.items() if name in data]
    trials = ["threat.trials=2"] if tree["threat"]["trials"] > 1 else []
    return [*BASE, *recipe, *fewer, *trials, *words]


@pytest.fixture(scope="session", autouse=True)
def _own_packages() -> None:
    adopt_own_packages()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Store:
    """A store for all tests, so that what many experiments have in common is trained once."""
    return Store(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def second(tmp_path_factory) -> Store:
    """Another one, for what is computed twice and compared: each value of a run is made once in each."""
    return Store(tmp_path_factory.mktemp("second"))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tiny(store):
    """Return a function from words and replaced fields to an experiment on blobs."""

    def make(*words: str, **fields: object) -> Experiment:
        experiment = assemble(tree_of(tiny_words(*words)), store)
        return dataclasses.replace(experiment, **fields)

    return make
