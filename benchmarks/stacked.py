"""Many small models: one pass over all of them, against a loop over the same recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from benchmarks._setting import Setting, made_up, setting
from benchmarks._timing import in_turns
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
from poisonbench.learn.central import Central
from poisonbench.learn.stacked import How
from poisonbench.report.benchmarks import Comparison

NETS = {
    "linear, 28x28": ("net=linear", (1, 28, 28)),
    "linear, 8x8": ("net=linear", (1, 8, 8)),
    "MLP 128, 28x28": ("net=mlp", (1, 28, 28)),
    "MLP 128, 8x8": ("net=mlp", (1, 8, 8)),
    "CNN 32-64, 8x8": ("net=tiny", (1, 8, 8)),
}


def measure(data: Path | None, *, members: tuple[int, ...] = (16, 64, 256), repeats: int = 3) -> Iterator[Comparison]:
    """Yield one comparison a network, a number of members and a back-end; parts of 16 to 64 rows, batches of 16, ten epochs."""
    for name, (word, shape) in NETS.items():
        for count in members:
            sizes = (16 + Key.root(100).per_row(torch.arange(count))[:, 0] * 49).long().tolist()
            whole = setting(word, "learner.epochs=10", "learner.batch_size=16", data=made_up(sum(sizes), shape))
            parts = [whole.data.take(rows) for rows in torch.arange(sum(sizes)).split(sizes)]
            for how in ("grouped", "vmap") if "CNN" not in name else ("grouped", "unfold", "vmap"):
                yield _compared(name, whole, parts, how, repeats)


def _compared(name: str, whole: Setting, parts: list[Dataset], how: How, repeats: int) -> Comparison:
    loop = cast("Central", whole.learner)
    stack = dataclasses.replace(loop, stack=how)
    rngs = [Key.root(100).child(str(member)) for member in range(len(parts))]
    costs = in_turns(lambda: stack.fit_many(parts, whole.combine, rngs), lambda: loop.fit_many(parts, whole.combine, rngs), repeats=repeats)
    return Comparison(
        work=f"{name}: {len(parts)} models, parts of 16 to 64 rows, ten epochs of batches of 16",
        ours=f"learner.stack={how}",
        alternative="learner.stack=loop",
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=costs.alternative,
    )
