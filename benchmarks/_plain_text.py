"""A plain training loop for texts as in most papers' code: a DataLoader that looks words up one text at a time, rows of one length, Adam.

Shape letters: B rows, L words, E numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows


class Sentences(Rows[tuple[Tensor, int]]):
    """Texts, turned into rows of word numbers one by one.

    Args:
        texts: words with spaces between them.
        labels: of the texts.
        numbers: of the words; 0 is padding, 1 an unknown word.
        length: of every row; shorter texts are padded.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[int], numbers: Mapping[str, int], length: int) -> None:
        self.texts, self.labels, self.numbers, self.length = texts, labels, numbers, length

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Return one row of word numbers and its label."""
        ids = [self.numbers.get(word, 1) for word in self.texts[row].split()][: self.length]
        return torch.tensor(ids + [0] * (self.length - len(ids))), self.labels[row]


class PlainCNN(nn.Module):
    """Kim's network as it is usually written: convolutions over whole rows, padding included.

    Args:
        words: size of the vocabulary.
        width: numbers of an embedding.
        windows: words of a window, one number for each size.
        filters: filters of each size.
        dropout: share of the features that is set to zero in training.
    """

    def __init__(self, words: int, width: int, windows: Sequence[int], filters: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, size) for size in windows)
        self.dropout, self.last = nn.Dropout(dropout), nn.Linear(len(windows) * filters, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, 2) scores from (B, L) word numbers."""
        embedded = self.table(inputs).transpose(1, 2)
        pooled = [F.relu(convolution(embedded)).amax(2) for convolution in self.convolutions]
        scores: Tensor = self.last(self.dropout(torch.cat(pooled, 1)))
        return scores


def train(net: nn.Module, rows: Sentences, *, batch_size: int, workers: int) -> None:
    """Train for one epoch.

    Args:
        net: from word numbers to scores.
        rows: the texts.
        batch_size: rows of a step.
        workers: processes of the DataLoader.
    """
    place = next(net.parameters()).device
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    total = 0.0
    for batch, answers in DataLoader(rows, batch_size=batch_size, shuffle=True, num_workers=workers):
        loss = F.cross_entropy(net(batch.to(place)), answers.to(place))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
