"""The same figures in another process, in another order, with another hash seed and another locale."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from poisonbench.config.compose import options
from tests.conftest import CHEAP, tiny_words
from tests.reliability.test_command_line import python

RUN = """
import json, sys
from pathlib import Path
from poisonbench.sweep.cell import computed
from poisonbench.storage.record import read
told = {}
for name, words in json.loads(Path(sys.argv[1]).read_text()):
    cell = computed([*words, f"results_dir={sys.argv[2]}"])
    told[name] = read(cell.path).result_digest if cell.path else cell.sentence
print(json.dumps(told))
"""
ATTACKS = [name for name in options("attack") if name not in ("availability", "backdoor", "targeted", "federated")]


def cells(pairs: list[tuple[str, str]], seed: int) -> list[tuple[str, list[str]]]:
    told = []
    for attack, defense in pairs:
        words = tiny_words(f"attack={attack}", f"defense={defense}", *CHEAP.get(defense, ()))
        told.append((f"{attack} x {defense}", [*words, f"seed={seed}"]))
    return told


def digests(told: list[tuple[str, list[str]]], folder: Path, name: str, **environment: str) -> dict[str, str]:
    plan = folder / f"{name}.json"
    plan.write_text(json.dumps(told))
    done: subprocess.CompletedProcess[str] = python("-c", RUN, str(plan), str(folder / name), cwd=folder, timeout=3000, **environment)
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def check(pairs: list[tuple[str, str]], folder: Path, seed: int) -> None:
    told = cells(pairs, seed)
    first = digests(told, folder, "first", PYTHONHASHSEED="0", LC_ALL="C")
    second = digests(told[::-1], folder, "second", PYTHONHASHSEED="1", LC_ALL="C.UTF-8", TZ="Asia/Tokyo")
    assert first == second
    assert len(first) == len(pairs)


def test_six_pairs_give_the_same_digest_in_two_fresh_processes(tmp_path):
    every = [(attack, defense) for attack in ATTACKS for defense in options("defense")]
    check(random.Random(0).sample(every, 6), tmp_path, seed=100)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 105))
def test_every_pair_gives_the_same_digest_in_two_fresh_processes(tmp_path, seed):
    check([(attack, defense) for attack in ATTACKS for defense in options("defense")], tmp_path, seed=seed)
