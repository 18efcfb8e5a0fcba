"""The canonical form of values as JSON, from which store keys and records are made.

A plugin contributes its class path, its VERSION and its fields; in keys, a plugin from outside this project also contributes its code.
A data set contributes its content, not its recipe, so two recipes that give equal bytes share stored results.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import TypeAlias, cast

import torch

from poisonbench.core.plugins import OWN

Canonical: TypeAlias = "bool | int | float | str | list[Canonical] | dict[str, Canonical] | None"


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's shape, dtype and bytes."""
    whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    digest = hashlib.sha256(f"{tuple(whole.shape)}{whole.dtype}".encode())
    if whole.numel():
        # an axis of length 1 may have any stride in a contiguous tensor (0 after `expand`), and a view as bytes needs stride 1
        digest.update(whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def canonical(value: object, *, code: bool = False) -> Canonical:
    """Return the one JSON form of a value.

    A value with a `content` attribute (a file, a user's own network) is written as that content. A field with
    `metadata={"spec": False}` says where work is done, not what is done, and is left out. A field with
    `metadata={"spec": "changed"}` was added later; its default is the earlier behaviour. It is written only where it
    differs from the default, so that older results keep their keys.

    Args:
        value: numbers, text, tensors, mappings, lists or dataclasses of them.
        code: also write a digest of the code of classes outside this project; it differs between versions of Python.

    Raises:
        TypeError: a value whose identity cannot be written down, such as a lambda.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        return {"tensor": tensor_digest(value)}
    if isinstance(value, Mapping):
        return {str(name): canonical(value[name], code=code) for name in sorted(value)}
    if isinstance(value, tuple | list):
        return [canonical(item, code=code) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plugin(value, code=code)
    raise TypeError(f"cannot write {value!r} into a key: use numbers, text, tensors or frozen dataclasses of them")


def _plugin(value: object, *, code: bool) -> dict[str, Canonical]:
    kind = type(value)
    head: dict[str, Canonical] = {"class": f"{kind.__module__}.{kind.__qualname__}", "version": getattr(kind, "VERSION", 1)}
    if code and not f"{kind.__module__}.".startswith(OWN):
        head["code"] = _code(cast("Hashable", kind))
    if hasattr(value, "content"):
        return head | {"content": canonical(value.content)}
    assert is_dataclass(value)
    spec = [field.name for field in fields(value) if _written(field, getattr(value, field.name))]
    return head | {name: canonical(getattr(value, name), code=code) for name in spec}


@functools.cache
def _code(kind: Hashable) -> str:
    """Return a digest of a class's code, so that an edited plugin outside this project has new keys without a new VERSION."""
    from poisonbench.core.identity import identity

    return identity(kind).digest


def _written(field: Field[object], value: object) -> bool:
    rule = field.metadata.get("spec", True)
    return value != field.default if rule == "changed" else bool(rule)


def key(*parts: object) -> str:
    """Return the SHA-256, in hexadecimal, of the canonical form of `parts`, with the code of classes outside this project."""
    text = json.dumps(canonical(parts, code=True), sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()
