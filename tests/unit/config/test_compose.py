"""What a word may hold before a parser sees it, each limit from both sides; and that a tree which was kept is the one that Hydra makes."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from poisonbench.config import compose
from poisonbench.config.compose import DEPTH, DIGITS, LETTERS, cells_of, check_words, tree_of
from poisonbench.core.errors import ConfigError

NEST = "[" * DEPTH + "]" * DEPTH


@pytest.mark.parametrize("word", ["x" * LETTERS, f"a={NEST},{NEST}", f"a={'9' * DIGITS}", "a=${seed}", "a=$HOME", "a=]]]", f"a={{b: {NEST[1:-1]}}}"])
def test_a_word_at_the_limit_passes(word):
    check_words([word])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("x" * (LETTERS + 1), rf"x\.\.\.: a word of {LETTERS + 1} letters; at most {LETTERS}$"),
        (f"a=[{NEST}]", f"at most {DEPTH} nested brackets"),
        (f"a={{b: ({NEST[1:-1]})}}", f"at most {DEPTH} nested brackets"),
        (f"a=]{'(' * (DEPTH + 1)}", f"at most {DEPTH} nested brackets"),
        (f"a={'9' * (DIGITS + 1)}", f"and {DIGITS} digits"),
        ("a=${now:x}", r"\$\{now:\.\.\.} is a resolver"),
        ("a=${ now :x}", "is a resolver"),
        ("a=${b${now:x}}", "is a resolver"),
    ],
)
def test_a_word_beyond_it_is_refused(word, says):
    with pytest.raises(ConfigError, match=says) as refused:
        check_words(["seed=0", word])
    assert len(str(refused.value)) < 300


WORDS = [
    ["attack=badnets", "attack.data.size=2", "seed=3"],
    ["attack.data.size=2", "attack=badnets", "net={widths: [4, 8]}", "net.depths=[1, 1]", "net.widths=[16, 32]"],
    ["defense=dpa", "learner=ridge", "+learner@defense.train.member=kernel_ridge", "defense.train.parts=7"],
    ["task=blobs", "owners=shards", "owners.per_client=1", "task.clients=${threads}", "threads=2"],
    ["+attack.data.more=1", "attack.data.more=2", "attack=badnets"],
    ["++attack.data.more=1", "~attack.data.more"],
    ["hydra.searchpath=[]", "seed=2"],
    ["device=cpu", "workers=3", "seed=4", "salt=5", "results_dir=a b", "publish=true", "cell_minutes=2"],
    ["seed=${threads}", "seed=3", "threads=2"],
    ["seed=3", "seed=${threads}", "threads=2"],
    ["task.limit=${seed}", "seed=50"],
    ["seed=1", "seed=2"],
    ["seed=much"],
    ["seed={a: 1}"],
    ["attack=badnets", "attack.data.sise=2"],
    ["attack=badnets", "threat.budget.rate=much"],
]


def by_hydra(words: list[str]) -> dict[str, object]:
    with compose.explaining(words):
        return OmegaConf.to_container(compose._by_hydra(words), resolve=True)


def told(make: Callable[[list[str]], dict[str, object]], words: list[str]) -> dict[str, object] | str:
    try:
        return make(words)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("words", WORDS)
def test_a_tree_from_kept_options_is_the_one_that_hydra_makes(words):
    assert told(tree_of, words) == told(tree_of, words) == told(by_hydra, words)


def test_a_tree_that_somebody_changes_is_no_other_ones():
    tree_of(["attack=badnets"])["attack"]["data"]["size"] = 99
    assert tree_of(["attack=badnets"])["attack"]["data"]["size"] == 3


def test_a_file_that_changes_is_read_again(tmp_path, monkeypatch):
    shutil.copytree(compose.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(compose, "CONFIGS", tmp_path / "configs")
    assert tree_of(["attack=badnets"])["attack"]["data"]["size"] == 3
    file = tmp_path / "configs" / "attack" / "badnets.yaml"
    file.write_text(file.read_text().replace("size: 3", "size: 4"))
    assert tree_of(["attack=badnets"])["attack"]["data"]["size"] == 4


def test_options_that_were_composed_before_take_a_fraction_of_the_time():
    words = ["attack=badnets", "defense=spectral", "seed=3"]
    tree_of(words)
    start = time.process_time()
    tree_of(words)
    kept, start = time.process_time() - start, time.process_time()
    by_hydra(words)
    assert kept < (time.process_time() - start) / 2


@pytest.mark.parametrize(
    ("words", "epochs", "widths"),
    [
        (["task=mnist"], 8, [16, 32, 64]),
        (["task=mnist", "learner.epochs=2", "net=small"], 2, [64, 128, 256]),
        (["task=mnist", "learner=small"], 20, [64, 128, 256]),
        (["task=cifar10"], 7, [32, 128, 128]),
        (["task=cifar10", "learner=fast"], 10, [64, 256, 256]),
        (["task=digits"], 20, [64, 128, 256]),
    ],
)
def test_a_task_brings_its_recipe_and_words_decide_over_it(words, epochs, widths):
    tree = tree_of(words)
    assert (tree["learner"]["epochs"], tree["learner"]["net"]["widths"]) == (epochs, widths)
    assert tree["threat"]["surrogate"] == tree["learner"]


@pytest.mark.parametrize("task", ["image_folder", "parquet"])
def test_own_pictures_bring_a_network_of_their_size(task):
    tree = tree_of([f"task={task}"])
    assert (tree["learner"]["epochs"], tree["net"]["_target_"]) == (10, "poisonbench.nets.small.PyramidCNN")


@pytest.mark.parametrize("task", ["mnist", "cifar10", "digits"])
def test_an_attack_decides_over_the_recipe_of_the_task(task):
    tree = tree_of([f"task={task}", "attack=federated"])
    assert tree["learner"]["_target_"] == "poisonbench.learn.federated.Federated"
    assert tree["net"]["widths"] == [32, 64]
    assert tree["task"]["clients"] == 20


def test_the_word_of_a_task_decides_over_what_a_learner_asks_of_its_rows():
    assert tree_of(["learner=federated", "task.clients=7"])["task"]["clients"] == 7
    assert tree_of(["task.public=0.2", "learner=transfer"])["task"]["public"] == 0.2
    assert tree_of(["learner=transfer_quick"])["task"] == {**tree_of([])["task"], "public": 0.95, "trusted": 0.0}


SWEEPS = [
    ["attack=none,badnets", "defense=none,[spectral,fine_pruning]"],
    ["attack=badnets", "attack.data.size=range(2,4)", "threat.budget.rate=0.1,0.2", "seed=7"],
    ["+experiment=trigger_size", "task=blobs", "seed=0", "attack.data.size=1,2"],
    ["hydra.searchpath=[pkg://configs]", "seed=0,1", "results_dir='a, b'"],
]


def sweeper_of_hydra(words: list[str], folder: Path) -> list[list[str]]:
    """Return the words of each cell as Hydra itself runs them."""
    script = f"""
import hydra, json, sys
from hydra.core.hydra_config import HydraConfig
import poisonbench.config.compose
@hydra.main(version_base="1.3", config_path={str(compose.CONFIGS)!r}, config_name="config")
def job(_):
    print(json.dumps(list(HydraConfig.get().overrides.task)))
job()
"""
    done = subprocess.run([sys.executable, "-c", script, "-m", *words, f"hydra.sweep.dir={folder}"], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.parametrize("words", SWEEPS)
def test_the_cells_of_a_sweep_are_those_that_hydra_runs(words, tmp_path):
    cells = [[word for word in cell if not word.startswith("hydra.")] for cell in cells_of(words, sweep=True)]
    assert cells == sweeper_of_hydra(words, tmp_path)
    assert len(cells) > 1


def test_an_experiment_that_asks_for_a_sweep_is_one_and_other_words_are_one_cell():
    assert len(cells_of(["+experiment=trigger_size"], sweep=False)) > 1
    assert cells_of(["seed=3", "hydra.searchpath=[]"], sweep=False) == [["hydra.searchpath=[]", "seed=3"]]


def test_a_cell_that_cannot_be_composed_refuses_the_whole_sweep():
    with pytest.raises(ConfigError, match=r"seed=much: .* whole number"):
        cells_of(["attack=none,badnets", "seed=0,much"], sweep=True)
