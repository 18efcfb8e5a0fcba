"""Find the records of an experiment: those of its own command, and those of other commands for the same cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from poisonbench.report.curves import words_of
from poisonbench.storage.record import Record

FIXED = ("seed", "attack", "defense")


def experiment_of(record: Record) -> str:
    """Return the name of the experiment whose command made a record; empty if there is none."""
    return words_of(record.command).get("+experiment", "")


def swept(records: Iterable[Record]) -> str | None:
    """Return the key, other than seed, attack and defense, that has several numbers in the commands of these records."""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in words_of(record.command).items():
            values.setdefault(name, set()).add(value)
    several = [name for name, found in sorted(values.items()) if name not in FIXED and len(found) > 1 and all(map(_is_number, found))]
    return several[0] if several else None


def belonging(records: Sequence[Record], experiment: str) -> list[Record]:
    """Return the records of an experiment.

    A cell with the default of the swept key equals a plain run, and both have one record, which may have the command of the plain run.
    So records whose specifications differ from those of the experiment only in the swept key and the seed belong to it too.
    """
    mine = [record for record in records if experiment_of(record) == experiment]
    key = swept(mine)
    if key is None or any(value_of(record, key) is None for record in mine):
        return mine
    known, own = {without(record, key) for record in mine}, {id(record) for record in mine}
    return [record for record in records if value_of(record, key) is not None and (id(record) in own or without(record, key) in known)]


def value_of(record: Record, key: str) -> float | None:
    """Return the number that a record's specification has for a key; None if it has none."""
    node: object = record.spec
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return float(node) if isinstance(node, int | float) else None


def number_of(record: Record, key: str) -> float:
    """Return the number that a record has for a key, from its specification or else from its command."""
    value = value_of(record, key)
    return float(words_of(record.command)[key]) if value is None else value


def without(record: Record, key: str) -> str:
    """Return a specification without a key and the seed, as text."""
    return json.dumps(_pruned({name: part for name, part in record.spec.items() if name != "seed"}, key.split(".")), sort_keys=True)


def _pruned(node: Mapping[str, object], path: Sequence[str]) -> dict[str, object]:
    """Return a copy of a tree without a key; only the mappings above the key are copied."""
    first, *rest = path
    others = {name: part for name, part in node.items() if name != first}
    return others | {first: _pruned(cast("Mapping[str, object]", node[first]), rest)} if rest else others


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
