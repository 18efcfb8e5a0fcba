"""Convert values to tensors and JSON, and back, without pickle.

A value is a number, text, a tensor, or a tuple, mapping or frozen dataclass of such values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import Canonical
from poisonbench.core.plugins import OWN, find_class

MOVED = {"poisonbench.line.Repaired": "poisonbench.runner.stages.Repaired"}  # classes in stores of version 0.1, and their paths today


def freeze(value: object, tensors: dict[str, Tensor]) -> Canonical:
    """Return a value as JSON; its tensors are added to `tensors`.

    Raises:
        TypeError: a value of another type.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": _named(value.detach().cpu().contiguous(), tensors)}
    if isinstance(value, tuple | list):
        return {"items": [freeze(item, tensors) for item in value]}
    if isinstance(value, Mapping):
        return {"mapping": {str(name): freeze(item, tensors) for name, item in value.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        held: dict[str, Canonical] = {field.name: freeze(getattr(value, field.name), tensors) for field in fields(value)}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "fields": held}
    raise TypeError(f"cannot store {value!r}: use numbers, text, tensors or frozen dataclasses of them")


def _named(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    """Return the name of a tensor in `tensors`; it is added unless `tensors` contains a tensor with the same memory."""
    for name, other in tensors.items():
        same = (other.data_ptr(), other.shape, other.dtype) == (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if same and tensor.numel():
            return name
    name = str(len(tensors))
    tensors[name] = tensor
    return name


def thaw(tree: Canonical, tensors: Mapping[str, Tensor], trusted: tuple[str, ...]) -> object:
    """Rebuild a value; only classes whose path begins with a prefix in `trusted` are used.

    Raises:
        ConfigError: a class without such a prefix.
        ValueError: a class of poisonbench that this version does not have.
    """
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[str(tree["tensor"])]
    if isinstance(items := tree.get("items"), list):
        return tuple(thaw(item, tensors, trusted) for item in items)
    if isinstance(mapping := tree.get("mapping"), dict):
        return {name: thaw(item, tensors, trusted) for name, item in mapping.items()}
    held = tree["fields"]
    assert isinstance(held, dict)
    kind = _class(str(tree["class"]), trusted)
    return kind(**{name: thaw(item, tensors, trusted) for name, item in held.items()})


def _class(path: str, trusted: tuple[str, ...]) -> type:
    """Return the class of a stored value, under its path of today."""
    path = MOVED.get(path, path)
    try:
        return find_class(path, trusted)
    except ConfigError as error:
        if path.startswith(OWN) and path.startswith(trusted):
            raise ValueError(f"it was written by another version: {error}") from error
        raise
