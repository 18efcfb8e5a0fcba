"""How long work says how far it is, without knowing who listens. Imports nothing heavy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Listen: TypeAlias = Callable[[str, int, int], None]


def _nobody(label: str, done: int, total: int) -> None:
    """Listen to nothing."""


_listener: ContextVar[Listen] = ContextVar("listener", default=_nobody)
_label: ContextVar[str] = ContextVar("label", default="")


def track(total: int, unit: str) -> Iterator[int]:
    """Count from 0 to `total` - 1 and tell the listener before the first step and after each one."""
    tell, label = _listener.get(), f"{_label.get()} {unit}".strip()
    tell(label, 0, total)
    for done in range(total):
        yield done
        tell(label, done + 1, total)


@contextmanager
def listening(listener: Listen) -> Iterator[None]:
    """Let `listener(label, done, total)` hear all that is tracked inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Name the work inside the block."""
    token = _label.set(label)
    try:
        yield
    finally:
        _label.reset(token)


@contextmanager
def heard(listen: Listen, handler: logging.Handler) -> Iterator[None]:
    """Send progress to `listen` and the store's log to `handler` while the block runs."""
    log = logging.getLogger("poisonbench")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # some libraries give the root logger a handler of its own when they are imported
    try:
        with listening(listen):
            yield
    finally:
        log.removeHandler(handler)
        log.propagate = True
