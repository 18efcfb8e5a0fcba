"""One training over two processes, started as a user starts it."""

import json
import subprocess
import sys

import torch
from safetensors.torch import load_file

from poisonbench.core.plugins import HOME
from tests.conftest import TINY

WORDS = ("poisonbench", *TINY, "attack=none", "net.norm=group", "net.pool=average", "seed=100")
TORCHRUN = (
    "torch.distributed.run",
    "--nproc-per-node=2",
    "--master-addr=127.0.0.1",
    "--master-port=0",
    "--rdzv-backend=c10d",
    "--rdzv-endpoint=127.0.0.1:0",
    "--local-addr=127.0.0.1",
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=HOME, capture_output=True, text=True, timeout=120)


def weights(folder) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("store/fit-*.safetensors")
    return load_file(path)


def test_two_processes_end_where_one_does(tmp_path):
    assert run(*WORDS, f"results_dir={tmp_path / 'one'}").returncode == 0
    both = run(*TORCHRUN, "-m", *WORDS, "learner.ddp=true", f"results_dir={tmp_path / 'two'}")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("clean training") == 1
    (path,) = (tmp_path / "two" / "records").glob("*.json")
    assert json.loads(path.read_text())["spec"]["learner"]["ddp"] is True
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(two[name], one[name], rtol=1e-3, atol=1e-4) for name in one)
    assert not all(torch.equal(two[name], one[name]) for name in one)  # otherwise nothing was shared


def test_what_several_processes_cannot_do_is_refused(tmp_path):
    alone = run(*WORDS, "learner.ddp=true", f"results_dir={tmp_path}")
    assert alone.returncode == 2
    assert "torchrun --nproc-per-node=2" in alone.stderr
    mixed = run(*TORCHRUN, "-m", *WORDS, "learner.ddp=true", "net.norm=batch", f"results_dir={tmp_path}")
    assert "set net.norm=group" in mixed.stderr
    assert not list(tmp_path.glob("records/*"))
