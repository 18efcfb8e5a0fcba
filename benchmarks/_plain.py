"""A plain training loop as in most papers' code: a DataLoader, one picture at a time through PIL, float32, NCHW."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows


class Pictures(Rows[tuple[Tensor, int]]):
    """Rows of an array, decoded and augmented one by one.

    Args:
        pictures: (N, H, W, C) uint8.
        labels: (N,) labels.
        transform: from a PIL image to a tensor.
    """

    def __init__(self, pictures: NDArray[np.uint8], labels: list[int], transform: Callable[[Image.Image], Tensor]) -> None:
        self.pictures, self.labels, self.transform = pictures, labels, transform

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Return one augmented row."""
        return self.transform(Image.fromarray(self.pictures[row])), self.labels[row]


def train(net: nn.Module, inputs: Tensor, labels: Tensor, *, batch_size: int, workers: int) -> None:
    """Train for one epoch.

    Args:
        net: from standardised pixels to scores.
        inputs: (N, C, H, W) uint8.
        labels: (N,) int64.
        batch_size: rows of a step.
        workers: processes of the DataLoader.
    """
    from torchvision import transforms

    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
    pictures = Pictures(inputs.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist(), transforms.Compose(steps))
    place = next(net.parameters()).device
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    net.train()
    total = 0.0
    for batch, answers in DataLoader(pictures, batch_size=batch_size, shuffle=True, num_workers=workers):
        loss = F.cross_entropy(net(batch.to(place)), answers.to(place))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
