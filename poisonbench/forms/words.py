"""Rows of words: the check of code that reads nothing else, and all that a row holds.

Shape letters: N rows.
"""

from __future__ import annotations

from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.forms.tokens import Tokens


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
    """Return (N, ...), the inputs of each row and its further columns of the same form, such as a response, as one value (`Form.whole`).

    Sealed columns are left out, since nobody who writes rows can change them.
    """
    kind = type(rows.form)
    return rows.form.whole([column for name, column in rows.columns.items() if type(rows.schema[name].form) is kind and rows.schema[name].role != "sealed"])
