"""Progress reports of long work, independent of what displays them. Imports nothing heavy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Listen: TypeAlias = Callable[[str, int, int], None]


def _ignore(label: str, done: int, total: int) -> None:
    """Drop a report."""


_listener: ContextVar[Listen] = ContextVar("listener", default=_ignore)
_label: ContextVar[str] = ContextVar("label", default="")


def track(total: int, unit: str) -> Iterator[int]:
    """Count from 0 to `total` - 1; report to the listener before the first step and after each one."""
    report, label = _listener.get(), f"{_label.get()} {unit}".strip()
    report(label, 0, total)
    for done in range(total):
        yield done
        report(label, done + 1, total)


@contextmanager
def listening(listener: Listen) -> Iterator[None]:
    """Send all progress inside the block to `listener(label, done, total)`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Put `label` before the units that are reported inside the block."""
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
    log.propagate = False  # some libraries add a handler to the root logger when they are imported
    try:
        with listening(listen):
            yield
    finally:
        log.removeHandler(handler)
        log.propagate = True
