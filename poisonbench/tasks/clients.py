"""Which client contributes which row: three ways to distribute the training rows among clients.

Shape letters: N rows, C clients, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


class Owners(Protocol):
    """A way to distribute rows among clients, as a frozen dataclass."""

    def deal(self, data: Dataset, clients: int, key: Key) -> Tensor:
        """Return (N,) int64, the client of each row."""
        ...


@dataclass(frozen=True, kw_only=True)
class Iid:
    """Every client gets an equal number of random rows of any class."""

    VERSION: ClassVar[int] = 1

    def deal(self, data: Dataset, clients: int, key: Key) -> Tensor:
        """Return (N,) int64."""
        return _in_turn(key.per_row(data.ids)[:, 0].argsort(stable=True), clients)


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """The rows of each class are divided among clients in proportions drawn from a symmetric Dirichlet distribution.

    Source: Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019, in the form that divides each class among the clients. Clients have different numbers of rows.

    Args:
        alpha: concentration, above 0; small values give each client few classes.
    """

    VERSION: ClassVar[int] = 1
    alpha: float

    def __post_init__(self) -> None:
        """Check the concentration."""
        if not self.alpha > 0:
            raise ConfigError(f"task.owners.alpha={self.alpha}: give a concentration above 0")

    def deal(self, data: Dataset, clients: int, key: Key) -> Tensor:
        """Return (N,) int64."""
        draws, owners = key.per_row(data.ids)[:, 0], torch.zeros(len(data), dtype=torch.int64)
        for label in range(data.num_classes):
            rows = (data.labels == label).nonzero()[:, 0]
            shares = key.child(f"class/{label}").numpy().dirichlet(np.full(clients, self.alpha))
            ends = torch.from_numpy(np.rint(shares.cumsum() * len(rows)))[:-1]
            order = rows[draws[rows].argsort(stable=True)]
            owners[order] = torch.searchsorted(ends, torch.arange(len(rows), dtype=torch.float64), right=True)
        return owners


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Rows sorted by class are cut into shards of equal size; every client gets the same number of random shards.

    Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks
    from Decentralized Data", AISTATS 2017, section 3 (two shards per client).

    Args:
        per_client: shards of each client.
    """

    VERSION: ClassVar[int] = 1
    per_client: int

    def deal(self, data: Dataset, clients: int, key: Key) -> Tensor:
        """Return (N,) int64."""
        if self.per_client < 1:
            raise ConfigError(f"task.owners.per_client={self.per_client}: give 1 or more")
        draws = key.per_row(data.ids)[:, 0]
        order = (data.labels.to(torch.float64) + draws).argsort(stable=True)
        shards = order.tensor_split(clients * self.per_client)
        holder = _in_turn(key.child("shards").per_row(torch.arange(len(shards)))[:, 0].argsort(stable=True), clients)
        owners = torch.zeros(len(data), dtype=torch.int64)
        for shard, client in zip(shards, holder.tolist(), strict=True):
            owners[shard] = client
        return owners


def dealt(owners: Owners, data: Dataset, clients: int, key: Key) -> Tensor:
    """Return (N,) int64, the client of each row.

    Raises:
        ConfigError: fewer than one client, or a client without rows.
    """
    if clients < 1:
        raise ConfigError(f"task.clients={clients}: give 1 or more")
    if clients == 1:
        return torch.zeros(len(data), dtype=torch.int64)
    owned = owners.deal(data, clients, key)
    empty = (torch.bincount(owned, minlength=clients) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ConfigError(f"task.clients={clients}: client {empty[0]} gets none of the {len(data)} rows; lower task.clients, or choose owners=iid")
    return owned


def _in_turn(order: Tensor, clients: int) -> Tensor:
    """Give the items, in this order, to clients 0, 1, ... in turn."""
    owners = torch.empty(len(order), dtype=torch.int64)
    owners[order] = torch.arange(len(order)) % clients
    return owners
