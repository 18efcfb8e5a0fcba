"""Many small models: one pass over all of them, against a loop over the same recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import torch

from benchmarks._options import Options
from benchmarks._setting import Setting, made_up, setting
from benchmarks._timing import seconds
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key
from poisonbench.learn.central import Central
from poisonbench.learn.stacked_layers import How
from poisonbench.report.benchmarks import Comparison

NETS = {
    "linear, 28x28": ("net=linear", (1, 28, 28)),
    "linear, 8x8": ("net=linear", (1, 8, 8)),
    "MLP 128, 28x28": ("net=mlp", (1, 28, 28)),
    "MLP 128, 8x8": ("net=mlp", (1, 8, 8)),
    "CNN 32-64, 8x8": ("net=tiny", (1, 8, 8)),
}


def measure(options: Options, *, members: tuple[int, ...] = (16, 64, 256)) -> Iterator[Comparison]:
    """Yield one comparison for each network, number of members and back-end; parts of 16 to 64 rows, batches of 16, ten epochs."""
    for name, (word, shape) in NETS.items():
        for count in members:
            sizes = (16 + Key.root(100).per_row(torch.arange(count))[:, 0] * 49).long().tolist()
            whole = setting(word, "learner.epochs=10", "learner.batch_size=16", data=made_up(sum(sizes), shape))
            parts = [whole.data.take(rows) for rows in torch.arange(sum(sizes)).split(sizes)]
            yield from _compared(f"{name}: {count}", whole, parts)


def _compared(name: str, whole: Setting, parts: list[Dataset]) -> Iterator[Comparison]:
    """Time the loop before and after the back-ends, so that a drift of the machine's speed affects both sides."""
    loop = cast("Central", whole.learner)
    rngs = [Key.root(100).child(str(member)) for member in range(len(parts))]
    hows: tuple[How, ...] = ("grouped", "vmap", "unfold") if "CNN" in name else ("grouped", "vmap")
    few = slice(0, 4)
    for how in ("loop", *hows):  # the first call of each kind includes one-time costs
        dataclasses.replace(loop, stack=how).fit_many(parts[few], whole.combine, rngs[few])
    before = seconds(lambda: loop.fit_many(parts, whole.combine, rngs))
    spent = {how: seconds(lambda how=how: dataclasses.replace(loop, stack=how).fit_many(parts, whole.combine, rngs)) for how in hows}  # type: ignore[misc]
    after = seconds(lambda: loop.fit_many(parts, whole.combine, rngs))
    for how in hows:
        yield Comparison(
            work=f"{name} models, parts of 16 to 64 rows, ten epochs of batches of 16",
            ours=f"learner.stack={how}",
            alternative="learner.stack=loop",
            unit="s",
            ours_cost=(spent[how],),
            alternative_cost=(before, after),
        )
