"""Data sets without rows, to build networks for."""

import torch

from poisonbench.core.data import Dataset


def like(shape: tuple[int, ...], num_classes: int) -> Dataset:
    return Dataset.of(torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64), num_classes=num_classes)
