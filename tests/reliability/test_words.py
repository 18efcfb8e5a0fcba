"""A wrong word: one sentence of ours that names the right word, or gives advice that works."""

import copy
import functools
import operator
import os
import re
import resource
import subprocess
import sys

import pytest

from poisonbench.cli import entry
from poisonbench.config.build import build, check_targets, fitted
from poisonbench.config.compose import options, tree_of
from poisonbench.config.setting import Places, Setting
from poisonbench.config.vocabulary import groups, keys
from poisonbench.core.errors import PoisonbenchError
from poisonbench.core.plugins import HOME
from poisonbench.runner.check import check
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.sweep.engine import Engine
from poisonbench.trackers.save import tracker_of
from tests.conftest import tiny_words

FOREIGN = ("omegaconf", "hydra", "traceback", "configattributeerror", "full_key", "in struct")
MEANT = {
    "lst": "lst: no such command; did you mean list?",
    "bakdoor": "such as attack=backdoor",
    "backdoor": "did you mean attack=backdoor?",
    "attack backdoor": "did you mean attack=backdoor?",
    "attack": "attack: choose one, as in attack=adversarial_poison",
    "seed=0 attack=back door": "did you mean attack=backdoor?",
    "--sweep": "--sweep: no such flag; use -m",
    "--multi-run": "did you mean --multirun?",
    "--dryrun": "did you mean --dry-run?",
    "--multirun --foo": "--foo: no such flag; known: -m for a sweep",
    "--foo": "--foo: no such flag; known: -m for a sweep",
    "-x": "-x: no such flag; known: -m for a sweep",
    "--attack backdoor": "did you mean attack=backdoor?",
    "--seed=3": "did you mean seed=3?",
    "--config-name x": "use +experiment=NAME",
    "-cn x": "use +experiment=NAME",
    "--config-dir x": "[pkg://PACKAGE.configs]",
    "--cfg": "write --cfg job",
    "--cfg job -m seed=0,1": "leave -m and --dry-run out",
    "--resolve": "it has an effect only with --cfg job",
    "--info": "use --cfg job",
    "split.trusted=0.3": "write task.trusted=",
    "split={public:0.5}": "the learner sets this key; write task=",
    "rate=0.1": "did you mean threat.budget.rate?",
    "lr=0.1": "did you mean learner.lr?",
    "expected_rate=0.1": "did you mean defense.sanitize.expected_rate? it is a key of defense=",
    "defense=spectral defense.expected_rate=7": "did you mean defense.sanitize.expected_rate?",
    "threat.target=99": "did you mean attack.data.target? it is a key of attack=auto_poison, attack=badnets",
    "task.rot=x": "did you mean task.root? it is a key of task=beir",
    "task.root=/nonexistent": "task.root: no such key; it is a key of task=beir",
    "attack.trigger.sise=3": "did you mean attack.data.size? it is a key of attack=badnets",
    "attack=backdoor attack.trigger.sise=3": "did you mean attack.data.size?",
    "learner=ridge features=colours": "did you mean features@learner.features?",
    "learner.net.widths=[8]": "learner.net.widths: cannot be set here; its value is copied from net.widths",
    "features=colours": "features: no such key; no part of this run uses it",
    "+foo=1": "foo: no such key; known: attack",
    "+seed=1": "+seed: the key seed exists already; leave the + out",
    "attack=": "attack=: choose one by its name; known: adversarial_poison",
    "attack=5": "attack=5: choose one by its name; known: adversarial_poison",
    "attack=null": "choose one by its name",
    "task=[digits,mnist]": "choose one by its name",
    "=x": "=x: the key is missing; write KEY=VALUE",
    "+=x": "+=x: the key is missing",
    "attack=[badnets": "attack=[badnets: this cannot be read; write a list as [a,b]",
    "net.widths={a": "this cannot be read",
    "defense=[spectral,]": "defense=[spectral,]: this cannot be read",
    "seed=a": "seed=a: give a whole number, not text",
    "seed=1.5": "seed=1.5: give a whole number, not a fraction",
    "seed=null": "seed: give a whole number, not nothing",
    "seed=-1": "seed=-1: give a whole number from 0 to 999999999999999",
    "seed=99999999999999999999": "give a whole number from 0 to",
    "threat.budget=5": "threat.budget contains other keys; set one of them, such as threat.budget.rate",
    "~attack": "~attack: attack cannot be removed from a run; give it another value, such as attack=none",
    "~seed": "such as seed=VALUE",
    "~attack.foo": "attack.foo: no such key",
    "attack=badnets,wanet": "make a sweep; add -m: python -m poisonbench -m attack=badnets,wanet",
    "seed=range(3)": "make a sweep; add -m",
    "seed=${foo}": "${foo}:",
    "-m seed=a,1": "seed=a: give a whole number, not text",
    "attack=bakdoor": "attack=bakdoor: no such option; did you mean backdoor?",
}


@pytest.mark.parametrize("line", MEANT)
def test_a_wrong_word_is_one_sentence_of_ours_that_says_what_was_meant(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    words = ["seed=0", "attack=back", "door"] if line.endswith(" door") else line.split(" ")
    assert entry(words) == 2
    told = capsys.readouterr()
    assert MEANT[line] in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert not told.out
    assert not [word for word in FOREIGN if word in told.err.lower().replace("hydra.searchpath=", "")]
    assert not list(tmp_path.iterdir())


def test_a_setting_of_another_programs_says_ours(capsys):
    assert entry(["hydra.run.dir=x"]) == 2
    assert "results_dir=PATH sets the folder of records" in capsys.readouterr().err


def test_the_configuration_can_be_printed(capsys):
    assert entry(["--cfg", "job", "attack=backdoor"]) == 0
    assert "_target_: attacks.backdoor.badnets.BadNets" in capsys.readouterr().out


CHOICES = [(group, name) for group in groups() if group not in ("experiment", "features", "writer") for name in options(group)]
OWN_TEXT = ("salt", "results_dir", "sweep", "trust", "device", "threat.budget.norm")  # takes any text, or refuses it for another reason
TYPED = [key for key in keys({key: node for key, node in tree_of([]).items() if key not in groups() or key == "threat"}) if "surrogate" not in key]


def refusal(store, tree: dict[str, object]) -> str:
    """What all that reads a configuration says of it."""
    try:
        allowed = check_targets(tree, "")
        fitted(build(tree["engine"], allowed, "engine"), Engine, "engine")
        tracker_of(Setting(tree=tree, places=Places.of(store.root), trusted=allowed))
        assemble(tree, store)
    except PoisonbenchError as error:
        return str(error)
    return ""


def spoiled(tree: dict[str, object], key: str, wrong: object) -> dict[str, object]:
    """A copy of a configuration with another value for one key."""
    tree = copy.deepcopy(tree)
    *parents, name = key.split(".")
    functools.reduce(operator.getitem, parents, tree)[name] = wrong
    return tree


@pytest.mark.parametrize("key", TYPED)
def test_every_common_key_refuses_a_value_of_another_type_by_its_name(store, key):
    for wrong in ("[[1]]", "{a: 1}", *(() if key in OWN_TEXT else ("wrong",))):
        told = said(store, [f"{key}={wrong}"])
        assert key in told, wrong
        assert not [word for word in FOREIGN if word in told.lower()], wrong


RETRIEVAL = ("task=facts", "task.questions=2", "task.passages=20")
BORROWED = {"net": (), "owners": (), "retriever": RETRIEVAL, "reader": RETRIEVAL}  # groups that other places repeat, and words that use them


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=str)
def test_every_key_of_an_option_refuses_a_value_of_another_type_by_its_name(store, tmp_path, group, name):
    tree = tree_of([f"{group}={name}"])
    for key in keys({group: tree[group]}):
        for wrong in ([[1]], {"a": 1}):
            if group in BORROWED:
                told = said(store, [*BORROWED[group], f"{group}={name}", f"{key}={'[[1]]' if isinstance(wrong, list) else '{a: 1}'}"])
            else:
                told = refusal(store, spoiled(tree, key, wrong))
            assert key.rpartition(".")[2] in told, (key, wrong)
            assert not [word for word in FOREIGN if word in told.lower()], (key, wrong)
    assert not list(tmp_path.glob("store/*"))


ADVICE = {  # words, and words of the sentence that stand in their place
    "defense=krum": ("use learner=federated, or attack=federated", "defense=krum learner=federated"),
    "defense=multi_krum": ("use learner=federated, or attack=federated", "defense=multi_krum attack=federated"),
    "attack=backdoor defense=median": ("use learner=federated", "attack=backdoor defense=median learner=federated"),
    "learner=ridge defense=fltrust": ("use learner=federated", "learner=federated defense=fltrust"),
    "attack=alie learner=small": ("use learner=federated", "attack=alie learner=federated"),
    "attack=federated defense=spectral": ("use attack=backdoor", "attack=backdoor defense=spectral"),
    "attack=federated defense=dpa": ("use attack=backdoor", "attack=backdoor defense=dpa"),
    "attack=backdoor learner=federated defense=spectral": ("use learner=small", "attack=backdoor learner=small defense=spectral"),
    "learner=ridge defense=fine_tune": ("use learner=small", "learner=small defense=fine_tune"),
    "learner=ridge defense=dp_sgd": ("such as learner=small", "learner=small net.norm=group defense=dp_sgd"),
    "attack=wanet_training defense=spectral": ("such as defense=fine_tune", "attack=wanet_training defense=fine_tune"),
    "attack=federated defense=krum threat.budget.clients=0.45": ("set threat.budget.clients=0.3334",) * 2,
    "attack=federated defense=krum defense.aggregate.malicious=4": ("set defense.aggregate.malicious=3",) * 2,
    "attack=federated defense=krum task.clients=4 threat.budget.clients=0.4": ("set task.clients=5 threat.budget.clients=0.2",) * 2,
    "attack=federated defense=krum task.clients=4 defense.aggregate.malicious=2": ("set task.clients=7",) * 2,
    "attack=federated defense=multi_krum defense.aggregate.kept=9": ("set defense.aggregate.kept=4",) * 2,
    "attack=federated defense=median threat.budget.clients=0.6": ("set threat.budget.clients=0.4445",) * 2,
    "attack=federated defense=geometric_median threat.budget.clients=0.6": ("set threat.budget.clients=0.4445",) * 2,
    "attack=federated threat.budget.clients=0.01": ("or threat.budget.clients=0.1112", "set threat.budget.clients=0.1112"),
    "attack=federated threat.budget.clients=0.02 threat.budget.rate=0.01": ("set task.clients=50",) * 2,
    "attack=federated net.norm=batch": ("set net.norm=group",) * 2,
    "attack=federated task.clients=1 threat.budget.clients=0": ("set task.clients, such as 20", "set task.clients=20 threat.budget.clients=0.2"),
    "attack=sig threat.budget.rate=0.4": ("lower threat.budget.rate to 0.25", "set threat.budget.rate=0.25"),
    "attack=backdoor threat.budget.rate=0.9": ("lower threat.budget.rate to 0.75", "set threat.budget.rate=0.75"),
    "attack=backdoor threat.budget.count=300": ("lower threat.budget.count to 285", "set threat.budget.count=285"),
    "attack=backdoor threat.budget.rate=0.0001": ("give at least 0.002632", "set threat.budget.rate=0.002632"),
    "attack=targeted task.public=0": ("set task.public to a share above 0, such as 0.5", "set task.public=0.5"),
    "attack=error_minimizing threat=default": ("such as threat=unlearnable", "attack=error_minimizing threat=unlearnable"),
    "attack=targeted threat=default": ("such as threat=targeted", "attack=targeted threat=targeted"),
    "attack=backdoor attack.data.size=12": ("lower attack.data.size to 8", "set attack.data.size=8"),
    "attack=backdoor attack.data.margin=8": ("set attack.data.margin=0",) * 2,
    "attack=backdoor attack.data.target=9": ("4 classes allow 0 to 3", "set attack.data.target=3"),
    "defense=dp_sgd net.norm=batch": ("set net.norm=group",) * 2,
    "defense=strip task.trusted=0": ("set task.trusted to a share above 0, such as 0.05", "set task.trusted=0.05"),
    "defense=random_drop defense@defense.sanitize.like=none": (
        "defense@defense.sanitize.like=spectral",
        "defense=random_drop defense@defense.sanitize.like=spectral",
    ),
    "defense=[spectral,dpa]": ("~defense.certify", "defense=[spectral,dpa] ~defense.certify"),
    "threat.budget.norm=linf": ("set both or neither", "set threat.budget.limit=8"),
    "learner.stack=grouped learner.lookahead=2": ("and learner.stack=loop", "set learner.stack=loop"),
}


def outcome(store, words: list[str]) -> str:
    """How far these words go: nothing if the attack acted and the filter judged, else the sentence."""
    try:
        experiment = assemble(tree_of(tiny_words(*words)), store)
        line = Line(experiment=experiment, store=store)
        check(line)
        line.judge(line.strike())
    except PoisonbenchError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("line", ADVICE)
def test_advice_that_is_followed_leads_further(shared, line):
    says, instead = ADVICE[line]
    assert says in outcome(shared, line.split(" "))
    followed = [*line.split(" "), *instead.removeprefix("set ").split(" ")] if instead.startswith("set ") else instead.split(" ")
    assert outcome(shared, followed) == ""


RANGES = {
    "threat.budget.rate=2": r"threat.budget.rate=2.0: a poison rate lies in \[0, 1\]",
    "learner.epochs=-1": "learner.epochs=-1: give a whole number of 1 or more",
    "learner.epochs=0": "learner.epochs=0: give a whole number of 1 or more",
    "learner.batch_size=0": "learner.batch_size=0: give a whole number of 1 or more",
    "learner.lr=-1": "learner.lr=-1.0: give a finite number above 0",
    "learner.lr=nan": "learner.lr=nan: give a finite number above 0",
    "learner.momentum=1": r"learner.momentum=1.0: give a number in \[0, 1\)",
    "learner.weight_decay=inf": "learner.weight_decay=inf: give a finite number of 0 or more",
    "net.widths=[]": r"net.widths=\[\].*give both lists one number of 1 or more per block",
    "net.widths=[0]": r"net.widths=\[0\].*one number of 1 or more per block",
    "threads=-1": "threads=-1: give a number of CPU threads",
    "device=gpu": "device=gpu: choose auto, cpu or cuda",
    "seed=-1": "seed=-1: give a whole number from 0",
    "task.limit=0": "task.limit=0: give a number of training rows",
    "task.trusted=1.5": "task.trusted=1.5.*shares of 0 or more",
    "task.public=-0.1": "task.public=-0.1: give shares of 0 or more",
    "defense=spectral defense.sanitize.expected_rate=7": r"defense.sanitize.expected_rate=7.0: a rate to expect lies in \[0, 0.5\)",
    "task=cifar10 task.root=/nonexistent": "no folder at task.root=/nonexistent",
}


def said(store, words: list[str]) -> str:
    try:
        return refusal(store, tree_of(words))
    except PoisonbenchError as error:
        return str(error)


@pytest.mark.parametrize("line", RANGES)
def test_a_value_out_of_range_is_refused_by_name_before_any_data_is_read(store, tmp_path, monkeypatch, line):
    from poisonbench.tasks.source import Split

    def read(*_: object) -> None:
        raise AssertionError("the data was divided")

    monkeypatch.setattr(Split, "task", read)
    assert re.search(RANGES[line], said(store, line.split(" ")))
    assert not list(tmp_path.glob("store/*"))


@pytest.mark.parametrize("word", ["seed=-1", "threat.budget.rate=2", "learner.epochs=0", "net.widths=[0]", "task.trusted=1.5", "rate=0.1"])
def test_a_wrong_value_takes_no_training_to_find(tmp_path, word):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    told = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "poisonbench", word], cwd=tmp_path, capture_output=True, text=True, env=told, check=False)
    assert done.returncode == 2
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 6  # 2 to 3 s on a busy machine, nearly all of it for torch
