"""A block of code in which models compute in full precision, whatever their recipes say.

For an attack that takes small differences of gradients: bfloat16 keeps eight bits of a number, and loses them. Trainings inside the block have to follow
their recipe, because the key of a stored victim does not contain the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FULL: ContextVar[bool] = ContextVar("full_precision", default=False)


@contextmanager
def full_precision(*, full: bool = True) -> Iterator[None]:
    """Run a block in which every model computes in the type of its weights; with full=False a block inside it that follows the recipes."""
    token = _FULL.set(full)
    try:
        yield
    finally:
        _FULL.reset(token)


def is_full() -> bool:
    """Return whether the caller is inside `full_precision`."""
    return _FULL.get()
