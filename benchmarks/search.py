"""Exact search in blocks against numpy's product of the same matrices, and against the flat index of faiss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._options import Options
from benchmarks._timing import in_turns
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.report.benchmarks import Comparison
from poisonbench.retrieval.faiss import Flat
from poisonbench.retrieval.search import BLOCK, blocks, search

HOME = Path(__file__).parent.parent
WIDTH, TOP = 384, 10


def measure(options: Options, *, passages: int = 1_000_000, questions: int = 1000, repeats: int = 3) -> Iterator[Comparison]:
    """Yield our matrix products and our whole search against numpy's product, which finds nothing yet, then the search against faiss, then memory."""
    asked, found = unit(questions, 101), unit(passages, 100)
    work = f"{questions} questions, {passages} passages of {WIDTH} float32"
    yield from _against_numpy(work, asked, found, repeats)
    yield _against_faiss(work, asked, found, 1)  # minutes for the flat index
    yield Comparison(
        work=f"{work}: best {TOP}, memory",
        ours="whole search",
        alternative="numpy.matmul",
        unit="MiB",
        ours_cost=(_grown("search", passages, questions),),
        alternative_cost=(_grown("matmul", passages, questions),),
        note=f"resident memory grown beyond the vectors, in a process of its own; the block is {BLOCK * 4 / 2**20:.0f} MiB",
        facts={"block_mib": BLOCK * 4 / 2**20},
    )


def _against_numpy(work: str, asked: Tensor, found: Tensor, repeats: int) -> Iterator[Comparison]:
    room = np.zeros((len(asked), len(found)), np.float32)

    def stage() -> None:
        for _ in blocks(asked, found):
            pass

    for what, ours, name in (("matrix product", stage, "all blocks"), (f"best {TOP}", lambda: search(asked, found, TOP), "whole search")):
        costs = in_turns(ours, lambda: np.matmul(asked.numpy(), found.numpy().T, out=room), repeats=repeats)
        yield Comparison(
            work=f"{work}: {what}",
            ours=f"{name}, {BLOCK * 4 / 2**20:.0f} MiB of scores at a time",
            alternative="numpy.matmul into memory that is there",  # memory that is new costs as much as the product
            unit="s",
            ours_cost=costs.ours,
            alternative_cost=costs.alternative,
            facts=costs.cpu,
        )


def _against_faiss(work: str, asked: Tensor, found: Tensor, repeats: int) -> Comparison:
    """Compare with faiss, whose order of equal passages is another one; the passages have no copies here."""
    try:
        kind = Flat.check()
    except ConfigError as error:
        raise ConfigError("benchmark search: faiss is not installed; pip install -e '.[text]'") from error
    index = kind(WIDTH)
    index.add(found.numpy())
    same = float((search(asked, found, TOP).places.numpy() == index.search(asked.numpy(), TOP)[1]).mean())
    costs = in_turns(lambda: search(asked, found, TOP), lambda: index.search(asked.numpy(), TOP), repeats=repeats, warm_up=False)
    return Comparison(
        work=f"{work}: best {TOP}",
        ours="whole search",
        alternative="faiss.IndexFlatIP",
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=costs.alternative,
        facts={**costs.cpu, "same_places": same},
    )


def unit(rows: int, seed: int) -> Tensor:
    """Return (rows, 384) random unit vectors."""
    vectors = torch.empty(rows, WIDTH).normal_(generator=Key.root(seed).torch())
    for part in vectors.split(10_000):
        part.div_(torch.linalg.vector_norm(part, dim=1, keepdim=True))
    return vectors


def _grown(way: str, passages: int, questions: int) -> float:
    words = [sys.executable, "-m", "benchmarks.search", way, str(passages), str(questions)]
    done = subprocess.run(words, cwd=HOME, env=os.environ | {"PYTHONPATH": str(HOME)}, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _resident() -> float:
    """Return the peak resident memory of this process so far, in MiB; Linux counts into ru_maxrss what the parent had when it started this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) / 1024


def _child(way: str, passages: int, questions: int) -> float:
    """Return how many MiB the work adds to the peak, beyond what the same work on few rows needs."""
    asked, found = unit(questions, 101), unit(passages, 100)

    def work(asked: Tensor, found: Tensor) -> object:
        return search(asked, found, TOP) if way == "search" else np.matmul(asked.numpy(), found.numpy().T)

    work(asked[:4], found[:100])
    before = _resident()
    work(asked, found)
    return _resident() - before


if __name__ == "__main__":
    print(_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))  # noqa: T201  # the parent reads it
