"""Random numbers as a value: the same key gives the same numbers, whatever else is drawn.

Shape letters: N rows, R draws per row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def _signed(word: int) -> int:
    """Write an unsigned 64-bit word as the int64 with the same bits."""
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift right without the sign (torch has no unsigned 64-bit arithmetic)."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(words: Tensor) -> Tensor:
    """Finalise int64 counters as splitmix64 does (Steele, Lea, Flood, OOPSLA 2014)."""
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


@dataclass(frozen=True)
class Key:
    """A node of the tree of random streams.

    Args:
        digest: 64 hexadecimal digits; use `Key.root` and `child`.
    """

    digest: str

    @classmethod
    def root(cls, seed: int) -> Key:
        """Return the key of a whole run."""
        return cls(hashlib.sha256(f"poisonbench/{seed}".encode()).hexdigest())

    def child(self, name: str) -> Key:
        """Return the stream called `name`; streams of other names do not change it."""
        return Key(hashlib.sha256(f"{self.digest}/{name}".encode()).hexdigest())

    @property
    def seed(self) -> int:
        """A non-negative 63-bit seed for the generators of other libraries."""
        return int(self.digest[:16], 16) >> 1

    def torch(self, device: str = "cpu") -> torch.Generator:
        """Return a fresh torch generator; two calls give two generators in the same state."""
        return torch.Generator(device=device).manual_seed(self.seed)

    def numpy(self) -> np.random.Generator:
        """Return a fresh numpy generator."""
        return np.random.default_rng(self.seed)

    def per_row(self, ids_N: Tensor, epoch: int = 0, draws: int = 1) -> Tensor:
        """Draw uniform numbers that depend only on (key, row id, epoch).

        Batch size, order, device and the other rows change nothing: a row keeps its draws when another
        row is inserted or deleted.

        Args:
            ids_N: (N,) int64 row ids, on any device.
            epoch: pass over the data.
            draws: R, numbers per row.

        Returns:
            (N, R) float64 in [0, 1), on the device of `ids_N`.
        """
        return _uniform(self.seed, ids_N, epoch, draws)

    def pick(self, ids_N: Tensor, count: int) -> Tensor:
        """Choose `count` of the rows, uniformly, without replacement.

        Choices are nested: the rows of a smaller count are among those of a larger one, so a curve over
        poison rates adds rows and replaces none.

        Returns:
            (count,) int64 positions in `ids_N`, ascending.
        """
        assert count <= len(ids_N), f"{count} of {len(ids_N)} rows"
        order = self.per_row(ids_N)[:, 0].argsort(stable=True)
        return order[:count].sort().values


def per_row_of_each(keys: Sequence[Key], parts: Sequence[Tensor], epoch: int = 0, draws: int = 1) -> Tensor:
    """Return what `key.per_row(ids, epoch, draws)` gives for each key and its part, one part after the other, in one pass.

    Args:
        keys: one per part.
        parts: int64 row ids of each part, N in all.
        epoch: pass over the data.
        draws: R, numbers per row.

    Returns:
        (N, R) float64 in [0, 1).
    """
    sizes = torch.tensor([len(part) for part in parts], device=parts[0].device)
    seeds = torch.tensor([key.seed for key in keys], device=parts[0].device).repeat_interleave(sizes)
    return _uniform(seeds, torch.cat(list(parts)), epoch, draws)


def _uniform(seeds: int | Tensor, ids_N: Tensor, epoch: int, draws: int) -> Tensor:
    rows = _mixed(_mixed(ids_N.to(torch.int64) * _GOLDEN + seeds) + epoch)
    steps = torch.arange(1, draws + 1, device=ids_N.device, dtype=torch.int64) * _GOLDEN
    return _shifted(_mixed(rows[:, None] + steps[None]), 11).to(torch.float64) / (1 << 53)


@contextmanager
def seeded(key: Key) -> Iterator[None]:
    """Run a block with torch's global generators seeded from `key`, and restore them afterwards.

    For initialisers and dropout, which take no generator.
    """
    # torch.manual_seed would store a stack trace for a GPU that may never be used: 0.5 ms a call, and the traces add up
    started = torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else ()):
        torch.default_generator.manual_seed(key.seed)
        if started:
            torch.cuda.manual_seed_all(key.seed)
        yield
