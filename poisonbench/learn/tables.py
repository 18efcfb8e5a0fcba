"""Inputs as tables that scikit-learn reads, and how their columns are prepared.

Shape letters: N rows, D columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.form import Form

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Table: TypeAlias = "NDArray[np.float64] | csr_matrix"
Arrays: TypeAlias = Mapping[str, NDArray[np.float64]]  # class numbers and tree nodes are int64


def tabled(form: Form, inputs: Tensor) -> Table:
    """Return the table of inputs as scikit-learn reads it."""
    table = form.table(inputs)
    if not table.is_sparse:
        return table.double().numpy()
    from scipy.sparse import coo_matrix

    return coo_matrix((table.values().double().numpy(), tuple(table.indices().numpy())), shape=tuple(table.shape)).tocsr()


def preparation(table_ND: Table) -> Arrays:
    """Return what the columns are standardised with: "mean" and "scale" (D,); for words, "words", those that a row contains."""
    if not isinstance(table_ND, np.ndarray):
        return {"words": np.unique(table_ND.nonzero()[1]).astype(np.int64)}
    deviation = table_ND.std(0)
    constant = deviation <= 1e-12 * np.abs(table_ND).max(0)  # rounding errors of a constant column are no deviation
    return {"mean": table_ND.mean(0), "scale": np.where(constant, 1.0, deviation)}


def prepared(table: Table, arrays: Arrays) -> Table:
    """Return the table with its columns standardised; of words, those that a training row contains."""
    if "words" in arrays:
        return table[:, arrays["words"]]
    return (table - arrays["mean"]) / arrays["scale"]
