"""One thread for libraries of linear algebra."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block with one thread in each BLAS and OpenMP library that is loaded; import the library that does the work before.

    Iterations over small matrices wait for the slowest thread in each step. On a busy machine, several threads then take much longer than one. The number
    of threads also changes how sums are rounded.
    """
    with _loaded(len(sys.modules)).limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _loaded(modules: int) -> ThreadpoolController:
    """Return the libraries that are loaded; a search for them takes 2 ms and is repeated when more modules have been imported."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
