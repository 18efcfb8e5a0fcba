"""What tests share: one tiny experiment, trained in under a second; on made-up images, or on the task that an attack brings along."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest

from poisonbench.config.compose import tree_of
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.runner.experiment import Experiment, assemble
from poisonbench.storage.store import Store

BASE = ("task=blobs", "net.widths=[8,16]", "net.depths=[1,1]", "threads=1")
SHORT = {
    "Central": ("learner.epochs=4", "learner.batch_size=32", "learner.lr=0.1"),
    "Federated": ("learner.client.epochs=2", "learner.client.lr=0.1", "learner.rounds=4", "task.clients=9", "threat.budget.clients=0.34"),
    "Transfer": ("learner.extractor.epochs=4", "learner.extractor.batch_size=32", "learner.extractor.lr=0.1", "learner.head.lr=0.1", "threat.trials=2"),
}
HOMES = {  # what makes the task of an attack tiny, by the task's class; all others run on blobs
    "Sentiment": ("threads=1", "task.rows=400", "task.test_rows=200", "task.noise=0", "net=mean_embedding", "learner.epochs=8"),
    "Spam": ("threads=1", "task.rows=400", "task.test_rows=100"),
    "Bundled": ("threads=1",),
    "Facts": ("threads=1", "task.questions=40", "task.passages=400", "task.claims=40", "threat.targets=2", "threat.budget.count=null"),
    "World": (
        *("threads=1", "task.texts=60", "task.things=2", "task.instruction=160", "task.test_rows=40", "threat.budget.count=null"),
        *("net.width=32", "net.layers=1", "net.heads=2"),
    ),
    "Corpus": ("threads=1",),
    "Grammar": ("threads=1", "task.rows=300", "task.test_rows=20", "net.width=32", "net.layers=1", "net.heads=2", "threat.budget.count=null"),
    "Crawl": ("threads=1", "task.limit=500", "task.expired=0.3", "threat.budget.count=null"),
    "Concepts": ("threads=1", "task.rows=40", "task.rare_rows=12", "task.test_rows=10", "threat.budget.count=null"),
    "Styles": ("threads=1", "task.rows=60", "task.test_rows=10", "threat.budget.count=null"),
    "Memory": ("threads=1", "task.entries=100", "task.requests=40", "threat.budget.count=null"),
}
SHORT["Contrastive"] = ("learner.epochs=2", "learner.batch_size=64", "net.pictures.widths=[8,16,32]")
SHORT["Language"] = ("learner.epochs=4",)
SHORT["Tuned"] = tuple(f"learner.{stage}.epochs=2" for stage in ("safety", "preference", "finetuning"))
SHORT["TextToImage"] = (
    *("learner.extractor.epochs=40", "learner.extractor.net.width=24", "learner.extractor.batch_size=16"),
    *("learner.head.epochs=80", "learner.head.net.width=128", "learner.head.net.layers=1", "learner.head.lr=0.005"),
)
FEWER = {"iterations": 20, "models": 2, "steps": 5, "restarts": 2, "turns": 2}  # of attacks that optimise
CHEAP = {  # of defenses that train many models, or optimise
    "strip": ("defense.screen.overlays=5",),
    "onion": ("task.trusted=0.2",),
    "neural_cleanse": ("defense.repair.steps=20",),
    **{name: ("defense.train.parts=5",) for name in ("dpa", "collective", "ss_dpa", "run_off_election", "hash_bagging", "white_box_flips", "never")},
    "dp_ensemble": ("defense.train.members=3",),
    "randomized_ablation": ("defense.train.draws=10", "defense.certify.draws=20"),
    "finite_aggregation": ("defense.train.parts=3", "defense.train.spread=2"),
    "bagging": ("defense.train.members=5",),
    "confident_learning": ("defense.sanitize.folds=2",),
    "meta_sift": ("defense.sanitize.sifters=2",),
    "epic": ("defense.train.step.start=1",),
    "friendly_noise": ("defense.train.step.start=1", "defense.train.step.steps=3"),
    "adversarial_poisoning": ("defense.train.step.steps=1",),
    "crow": ("defense.repair.epochs=1",),
    "cleanclip": ("task.trusted=0.2", "defense.repair.epochs=2"),
    "alignment": ("task.trusted=0.2",),
    "safeclip": ("defense.train.step.warmup=0",),
    "tracin": ("defense.sanitize.checkpoints=2", "defense.sanitize.epochs=1"),
    "pretrained_features": tuple(
        f"defense.train.member.{word}" for word in ("extractor.epochs=4", "extractor.batch_size=32", "extractor.lr=0.1", "head.lr=0.1")
    ),
    "roni": (
        *("task.rows=260", "task.test_rows=60", "task.trusted=0.1"),
        *("defense.sanitize.train=8", "defense.sanitize.calibration=12", "defense.sanitize.trials=1"),
    ),
}
SEARCHING = {"near_duplicate", "hubness", "memsad", "query_echo", "cluster_top_k", "reliability_rag", "expand_k", "robust_rag"}  # defenses of retrieval
OWN_ATTACK = {  # defenses of language models, of generators and of pictures with captions, and what they act on
    "cleangen": ("attack=denial_backdoor",),
    "crow": ("attack=denial_backdoor", "net.layers=2"),
    "mix_refusals": ("attack=shadow_alignment",),
    "residual": ("attack=random_noise",),
    **{name: ("attack=webscale",) for name in ("sha256", "perceptual_hash", "alignment", "cleanclip", "roclip", "safeclip")},
}
SPEC = {  # what every record's specification has, at the least
    **{part: {"name": "none"} for part in ("attack", "defense")},
    "task": {"name": "blobs", "rows": {"train": 380}},
    "threat": {"budget": {"rate": 0.05}},
    "seed": 0,
}
TINY = (*BASE, *SHORT["Central"])


def kind(tree: dict, part: str) -> str:
    """Return the name of a part's class."""
    return tree[part]["_target_"].rpartition(".")[2]


@cache
def home(choices: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the words for the task that these options choose; None for blobs."""
    return HOMES.get(kind(tree_of([*choices]), "task"))


def tiny_words(*words: str) -> list[str]:
    """Return the words of a tiny run of whatever task, learner and attack `words` bring along."""
    own = home(tuple(word for word in words if word.partition("=")[0] in ("attack", "defense", "task", "learner")))
    tree = tree_of([*(own or BASE), *words])
    recipe = SHORT.get(kind(tree, "learner"), ())
    data = tree["attack"].get("data", {})
    fewer = [f"attack.data.{name}={count}" for name, count in FEWER.items() if name in data]
    trials = ["threat.trials=2"] if tree["threat"]["trials"] > 1 else []
    return [*([] if own else BASE), *recipe, *(own or ()), *fewer, *trials, *words]


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
    """Return a function from words and replaced fields to a tiny experiment."""

    def make(*words: str, **fields: object) -> Experiment:
        experiment = assemble(tree_of(tiny_words(*words)), store)
        return dataclasses.replace(experiment, **fields)

    return make
