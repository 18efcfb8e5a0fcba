"""Rows of words: the check of code that reads nothing else, and all words of a row.

Shape letters: N rows, L words.
"""

from __future__ import annotations

from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.forms.tokens import Tokens, joined


def words_form(rows: Dataset, reader: str, slot: str) -> Tokens:
    """Return the vocabulary of rows of words.

    Args:
        rows: any rows.
        reader: what needs rows of words, such as "a network for text".
        slot: what to choose another one of, such as "net".

    Raises:
        ConfigError: the rows are not words.
    """
    if not isinstance(rows.form, Tokens):
        raise ConfigError(f"{reader} needs rows of words; choose a text task, such as task=sentiment, or another {slot}")
    return rows.form


def whole_rows(rows: Dataset) -> Tensor:
    """Return (N, L) int64, the words of the inputs of each row, then those of its further columns of words, such as a response; padded at the end.

    Sealed columns are left out, since nobody who writes rows can change them.
    """
    parts = [column for name, column in rows.columns.items() if isinstance(rows.schema[name].form, Tokens) and rows.schema[name].role != "sealed"]
    return parts[0] if len(parts) == 1 else joined(*parts, length=sum(part.shape[1] for part in parts))
