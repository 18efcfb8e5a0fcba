"""Signed lists of rows: what the publisher of a training set signs, and what a user receives with the rows.

Shape letters: N rows, R listed rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.keys import tensor_digest

PUBLISHER = "publisher"
UNNAMED = ("ids", "owners")  # columns that number a row and its owner; delivery numbers the rows again


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """A list of row digests with a signature, as it comes with a training set.

    The signature is a symbol, not cryptography: the name of a key and the digest of the list that this key signed. The referee takes the place of
    the mathematics: it refuses an attack whose list has a valid signature of the publisher although the publisher never signed it. What a run
    measures is what a user gains from a signature that cannot be forged.

    Args:
        rows: (R, 32) uint8, the SHA-256 of each listed row, as `row_digests` computes it.
        signer: name of the key; `PUBLISHER` is the one that the user trusts.
        signed: digest of the list that was signed.
    """

    VERSION: ClassVar[int] = 1
    rows: Tensor
    signer: str
    signed: str

    def __len__(self) -> int:
        """Count the listed rows."""
        return len(self.rows)

    def fault(self) -> str | None:
        """Return why a user who trusts the publisher refuses the list, as the rest of a sentence; None if the signature is the publisher's."""
        if not self.signer:
            return "nobody signed one"
        if self.signer != PUBLISHER:
            return f"it is signed with the key of {self.signer}, not with that of the publisher"
        return None if self.signed == tensor_digest(self.rows) else "it is not the list that the publisher signed"

    def lists(self, digests_N: Tensor) -> Tensor:
        """Return (N,) bool, whether the list contains each of the (N, 32) digests."""
        known = {*_bytes(self.rows)}
        return torch.tensor([digest in known for digest in _bytes(digests_N)], dtype=torch.bool)


def signed(data: Dataset, signer: str = PUBLISHER) -> Manifest:
    """Return the list of these rows, signed with the key `signer`. For a list of its own an attack gives another name than the publisher's."""
    rows = row_digests(data)
    return Manifest(rows=rows, signer=signer, signed=tensor_digest(rows))


NOTHING_SIGNED = Manifest(rows=torch.zeros(0, 32, dtype=torch.uint8), signer="", signed="")


def row_digests(data: Dataset) -> Tensor:
    """Return (N, 32) uint8, the SHA-256 of each row's names, types, shapes and bytes in every column except `ids` and `owners`."""
    if len(data) == 0:
        return torch.zeros(0, 32, dtype=torch.uint8)
    columns = {name: column for name, column in data.columns.items() if name not in UNNAMED}
    head = "".join(f"{name} {column.dtype} {tuple(column.shape[1:])};" for name, column in columns.items()).encode()
    tables = [_as_bytes(column) for column in columns.values()]
    found = [hashlib.sha256(b"".join([head, *(table[row].tobytes() for table in tables)])).digest() for row in range(len(data))]
    return torch.frombuffer(bytearray(b"".join(found)), dtype=torch.uint8).view(len(data), 32)


def _as_bytes(column: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return (N, bytes of a row) uint8."""
    rows = column.contiguous().reshape(len(column), -1).numpy()
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(column), -1) if rows.size else np.zeros((len(column), 0), dtype=np.uint8)


def _bytes(digests_N: Tensor) -> list[bytes]:
    return [row.tobytes() for row in digests_N.contiguous().numpy()]
