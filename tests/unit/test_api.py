import dataclasses

import pytest
import torch
from torch import nn

import poisonbench
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.rng import Key


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def rows(count: int, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 1, 4, 4), generator=key.torch())
    return (noise + 90 * labels[:, None, None, None]).to(torch.uint8), labels


def test_own_tensors_and_an_own_network_walk_the_same_line(tmp_path):
    task = poisonbench.own_task(train=rows(300, Key.root(0)), test=rows(100, Key.root(1)), name="mine")
    words = ("attack=backdoor", "attack.data.size=1", "threat.budget.rate=0.2", "learner.epochs=10", "learner.batch_size=32", "threads=1")
    record = poisonbench.run(*words, task=task, net=net, results_dir=str(tmp_path))
    assert record.spec["task"]["name"] == "mine"
    assert record.undefended["asr"] > 0.9 > record.baseline["asr"]
    assert len(list(tmp_path.glob("records/*.json"))) == 1
    assert record.command.startswith("poisonbench.run('attack=backdoor'")
    again = poisonbench.run(*words, task=task, net=net, results_dir=str(tmp_path / "another"))
    assert again.result_digest == record.result_digest


def test_mistakes_are_raised_in_words(tmp_path):
    with pytest.raises(ConfigError, match="did you mean backdoor"):
        poisonbench.run("attack=bakdoor", results_dir=str(tmp_path))
    with pytest.raises(DataError, match="give uint8 pixels"):
        poisonbench.own_task(train=(torch.zeros(4, 1, 2, 2, 2).long(), torch.zeros(4).long()), test=rows(4, Key.root(0)))
    with pytest.raises(AttributeError, match="no attribute"):
        _ = poisonbench.nothing


def test_importing_the_package_imports_no_torch():
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", "import sys, poisonbench; assert 'torch' not in sys.modules"], check=False)
    assert done.returncode == 0


def own_rows():
    return poisonbench.own_task(train=rows(300, Key.root(0)), test=rows(100, Key.root(1)), name="mine")


def keys_of(group: str) -> list[str]:
    """Every key of a group that some option of it has, such as task.limit."""
    from poisonbench.config.compose import options, tree_of

    trees = [tree_of([f"{group}={name}"])[group] for name in options(group)]
    return sorted({f"{group}.{key}" for tree in trees for key in tree if key != "_target_"} | {group})


@pytest.mark.parametrize("key", [key for key in keys_of("task") if key not in ("task.clients", "task.owners")])
def test_a_word_about_a_task_that_is_given_is_refused(tmp_path, key):
    with pytest.raises(ConfigError, match=f"{key}=1: it has no effect on a task of your own"):
        poisonbench.run(f"{key}=1", task=own_rows(), results_dir=str(tmp_path))


@pytest.mark.parametrize("key", keys_of("net"))
def test_a_word_about_a_network_that_is_given_is_refused(tmp_path, key):
    with pytest.raises(ConfigError, match=f"{key}=1: it has no effect on a network of your own"):
        poisonbench.run(f"{key}=1", task=own_rows(), net=net, results_dir=str(tmp_path))


def test_federated_learning_runs_on_own_rows(tmp_path):
    words = ("attack=sign_flip", "task.clients=5", "owners=shards", "learner.rounds=2", "threads=1")
    record = poisonbench.run(*words, task=own_rows(), net=net, results_dir=str(tmp_path))
    assert record.status == "done"
    assert record.counts["clients"] == 5
    assert record.counts["malicious"] == 1


def test_owners_that_a_task_has_already_stay(tmp_path):
    task = own_rows()
    train = task.train.with_columns(task.train.columns | {"owners": torch.arange(len(task.train)) % 3})
    words = ("attack=sign_flip", "threat.budget.clients=0.34", "learner.rounds=1", "threads=1")
    record = poisonbench.run(*words, task=dataclasses.replace(task, train=train), net=net, results_dir=str(tmp_path))
    assert record.counts["clients"] == 3


def test_a_network_for_a_learner_that_trains_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="this learner trains no network of yours"):
        poisonbench.run("learner=ridge", task=own_rows(), net=net, results_dir=str(tmp_path))
