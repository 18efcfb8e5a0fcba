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
        poisonbench.own_task(train=(torch.zeros(4, 1, 2, 2), torch.zeros(4).long()), test=rows(4, Key.root(0)))
    with pytest.raises(AttributeError, match="no attribute"):
        _ = poisonbench.nothing


def test_importing_the_package_imports_no_torch():
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", "import sys, poisonbench; assert 'torch' not in sys.modules"], check=False)
    assert done.returncode == 0
