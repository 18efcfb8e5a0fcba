"""A Ray cluster of two nodes on loopback; one node dies while a sweep runs."""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poisonbench.core.plugins import HOME
from poisonbench.storage.record import read
from tests.conftest import TINY

PORT = 6399


def ray(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words], env=env, capture_output=True, text=True, timeout=120, check=True)


def raylets() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"/raylet/raylet" in (entry / "cmdline").read_bytes().split(b"\0")[0]:
                found.add(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("ray")
    env = {**os.environ, "PYTHONPATH": str(HOME), "HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray("start", "--head", "--node-ip-address=127.0.0.1", f"--port={PORT}", "--num-cpus=1", "--include-dashboard=false", env=env)
    first = raylets()
    ray("start", f"--address=127.0.0.1:{PORT}", "--num-cpus=1", env=env)
    (second,) = raylets() - first
    yield env, second
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "stop", "--force"], env=env, capture_output=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_node_that_dies_takes_no_cell_with_it(cluster, tmp_path):
    env, second = cluster
    seeds = range(100, 108)
    words = [*TINY, "attack=backdoor", "threat.budget.rate=0.2", "engine=ray", f"engine.address=127.0.0.1:{PORT}", f"seed={','.join(map(str, seeds))}"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "poisonbench", "-m", *words], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("results/records/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(second, signal.SIGKILL)
    out, err = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, out + err
    told = [read(path) for path in tmp_path.glob("results/records/*.json")]
    assert sorted(record.spec["seed"] for record in told) == list(seeds)
    assert {record.status for record in told} == {"done"}
