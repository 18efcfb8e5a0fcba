"""Federated learning: Krum against a loop over pairs, and a round of many clients in one pass against a loop over clients."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks._options import Options
from benchmarks._setting import made_up, setting
from benchmarks._timing import in_turns
from poisonbench.core.defense import Server
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.report.benchmarks import Comparison


def measure(options: Options, *, clients: int = 100, parameters: int = 100_000, repeats: int = 3) -> Iterator[Comparison]:
    """Yield the comparisons of Krum and of a round."""
    adopt_own_packages()
    updates = torch.randn(clients, parameters, generator=Key.root(100).torch())
    krum: Callable[[Tensor, Server], Tensor] = importlib.import_module("defenses.aggregate.krum").Krum(malicious=clients // 5, variant="paper")
    server = Server(round=0, state=torch.zeros(parameters), malicious=clients // 5, reference=lambda: torch.zeros(parameters))
    costs = in_turns(lambda: krum(updates, server), lambda: krum_by_pairs(updates, clients // 5), repeats=repeats)
    yield Comparison(
        work=f"Krum, {clients} updates of {parameters} parameters",
        ours="one centred Gram matrix, float64",
        alternative="torch.dist of every pair",
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=costs.alternative,
    )
    for rows in (8, 32):
        words = ("learner=federated", "net=mlp", "learner.rounds=1", "learner.client.epochs=2", f"learner.client.batch_size={rows}", f"task.clients={clients}")
        made = made_up(clients * rows * 2, (1, 28, 28))
        loop, stack = (setting(*words, f"learner.client.stack={how}", data=made) for how in ("loop", "grouped"))
        owned = loop.data.edit(torch.arange(len(loop.data)), owners=torch.arange(len(loop.data)) % clients)
        costs = in_turns(
            lambda stack=stack, owned=owned: stack.learner.fit(owned, stack.combine, Key.root(100)),  # type: ignore[misc]
            lambda loop=loop, owned=owned: loop.learner.fit(owned, loop.combine, Key.root(100)),  # type: ignore[misc]
            repeats=repeats,
        )
        yield Comparison(
            work=f"a round of {clients} clients, MLP 128 on 28x28, two epochs of two batches of {rows}",
            ours="learner.client.stack=grouped",
            alternative="learner.client.stack=loop",
            unit="s",
            ours_cost=costs.ours,
            alternative_cost=costs.alternative,
        )


def krum_by_pairs(updates_RP: Tensor, malicious: int) -> Tensor:
    """Return the (P,) contribution that Krum selects, computed in a loop over pairs."""
    count = len(updates_RP)
    scores = []
    for one in range(count):
        distances = sorted(float(torch.dist(updates_RP[one], updates_RP[other])) ** 2 for other in range(count) if other != one)
        scores.append(sum(distances[: count - malicious - 2]))
    return updates_RP[min(range(count), key=scores.__getitem__)]
