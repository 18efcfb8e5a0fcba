"""Nested mappings of plain values, such as a configuration or a specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def value_at(tree: object, names: Sequence[str]) -> object:
    """Return the value at a place in nested mappings; None if the place does not exist."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
