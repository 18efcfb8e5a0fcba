"""The hardware bound of each piece of work: its arithmetic at the rate of matrix products, or its bytes at the rate of memory copies.

A ratio here is the share of that rate that is reached. 1 is the bound; more is possible only if an algorithm needs less than is counted. Shape
letters: R rows, D features, P parameters.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._options import Options
from benchmarks._setting import made_up, setting
from benchmarks._timing import in_turns
from poisonbench.core.defense import Server
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.report.benchmarks import Comparison

SIDE = 1024  # side of the matrices that are multiplied
BLOCK = 1 << 26  # bytes that are copied at a time: more than fits in a cache
TRAININGS = (("small", (1, 8, 8)), ("mnist", (1, 28, 28)), ("pictures", (3, 64, 64)), ("quick", (3, 32, 32)))


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The machine's best rate, as a stand-in for a piece of work.

    Args:
        name: its name.
        run: does it once.
        size: operations or bytes of one run.
        unit: "GFLOP" or "GB".
    """

    name: str
    run: Callable[[], object]
    size: float
    unit: str


def products(kind: torch.dtype) -> Bound:
    """Return the bound for arithmetic: a product of two matrices."""
    left, right = (torch.randn(SIDE, SIDE, generator=Key.root(seed).torch()).to(kind) for seed in (100, 101))
    name = f"as many operations in products of {SIDE} x {SIDE} {str(kind).removeprefix('torch.')}"
    return Bound(name=name, run=lambda: left @ right, size=2.0 * SIDE**3, unit="GFLOP")


def copies() -> Bound:
    """Return the bound for memory: a copy of one block."""
    source, target = torch.zeros(BLOCK, dtype=torch.uint8), torch.ones(BLOCK, dtype=torch.uint8)
    return Bound(name="a copy of as many bytes", run=lambda: target.copy_(source), size=float(BLOCK), unit="GB")


def measure(options: Options, *, rows: int = 2000, parameters: int = 200_000, features: int = 512, repeats: int = 5) -> Iterator[Comparison]:
    """Yield one comparison for each piece of work."""
    adopt_own_packages()
    for learner, shape in TRAININGS:
        ours = setting(f"learner={learner}", "learner.epochs=1", data=made_up(rows, shape))
        epoch = partial(ours.learner.fit, ours.data, ours.combine, Key.root(100))
        with FlopCounterMode(display=False) as counter:
            epoch()
        half = getattr(ours.learner, "precision", "") == "bf16" and ours.learner.runtime["bf16"]
        bound = products(torch.bfloat16 if half else torch.float32)
        yield compared(f"an epoch over {rows} rows of {'x'.join(map(str, shape))}", (f"learner={learner}", epoch), counter.get_total_flops(), bound, repeats)
    points = torch.randn(rows, features, generator=Key.root(100).torch())
    signature = importlib.import_module("defenses.sanitize.spectral").signature
    work = f"spectral scores of a class of {rows} x {features} features"
    yield compared(work, ("spectral", partial(signature, points, centre=True)), 2 * rows * features**2, products(torch.float64), repeats)
    updates = torch.randn(50, parameters, generator=Key.root(100).torch())
    server = Server(round=0, state=torch.zeros(parameters), malicious=10, reference=lambda: torch.zeros(parameters))
    krum, median = (importlib.import_module(f"defenses.aggregate.{name}") for name in ("krum", "median"))
    work, once = f"50 updates of {parameters} parameters", 50 * 50 * parameters  # multiplications and additions of one half: distances are symmetric
    yield compared(work, ("krum", partial(krum.Krum(malicious=10, variant="paper"), updates, server)), once, products(torch.float64), repeats)
    yield compared(work, ("median", partial(median.Median(), updates, server)), updates.nbytes, copies(), repeats)


def compared(work: str, ours: tuple[str, Callable[[], object]], size: float, bound: Bound, repeats: int) -> Comparison:
    """Compare work of `size` operations or bytes with the same amount of its bound.

    Args:
        work: what is done.
        ours: its name, and the function that does it.
        size: operations or bytes that it needs.
        bound: the machine's best rate.
        repeats: repetitions of both.
    """
    name, run = ours
    times = max(1, round(size / bound.size))
    costs, share = in_turns(run, lambda: [bound.run() for _ in range(times)], repeats=repeats), size / (bound.size * times)
    facts = {**costs.cpu, "cpu_ratio": costs.cpu["cpu_ratio"] * share, f"{bound.unit}_per_cpu_second": size / 1e9 / costs.cpu["ours_cpu_s"]}
    return Comparison(
        work=f"{work}, {size / 1e9:.3g} {bound.unit}",
        ours=name,
        alternative=bound.name,
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=tuple(cost * share for cost in costs.alternative),
        facts=facts,
    )
