"""An attacker's world for tests of data attacks."""

import torch

from poisonbench.core.data import Dataset
from poisonbench.core.threat import Budget, Known


def images(rows: int = 30, kinds: int = 3, side: int = 8) -> Dataset:
    pixels = torch.randint(40, 200, (rows, 1, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Dataset.of(pixels, torch.arange(rows) % kinds, num_classes=kinds)


def world(data: Dataset, *, target: Dataset | None = None, fit=None, tune=None, **budget: object) -> Known:
    none, writable = data.take(torch.arange(0)), torch.ones(len(data), dtype=torch.bool)
    return Known(rows=data, writable=writable, budget=Budget(**budget), targets=none if target is None else target, public=none, fit=fit, tune=tune)
