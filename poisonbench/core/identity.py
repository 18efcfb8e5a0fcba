"""Digests of code outside this project: two values with the same digest behave the same."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import torch

from poisonbench.core.keys import tensor_digest
from poisonbench.core.plugins import OWN

MADE_IN_PYTHON = 1 << 9  # the flag of heap types; attributes of other types may not show their whole state
MOST = 200_000  # values that are visited; the rest is unknown
PLAIN = (bool, int, float, complex, str, bytes, slice, range, np.generic, np.dtype, torch.dtype, torch.device, torch.memory_format, torch.layout, PurePath)
SKIPPED = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate__", "__firstlineno__", "__static_attributes__"}
SKIPPED |= {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "_abc_impl", "__abstractmethods__", "__parameters__", "__orig_bases__"}


class Identity(NamedTuple):
    """A SHA-256, and the types of the values inside that it does not cover."""

    digest: str
    unknown: tuple[str, ...]


def identity(value: object) -> Identity:
    """Return a digest of what decides the behaviour of a value: classes, code, closures, globals that the code names, attributes and tensors.

    For code in the standard library and in installed packages only the name counts. For an `nn.Module` everything counts except
    whether it is in training mode. A value without attributes to inspect, such as a file handle, is unknown.
    """
    walk = _Walk()
    walk.add(value)
    return Identity(walk.hash.hexdigest(), tuple(sorted(walk.unknown)))


class _Walk:
    def __init__(self) -> None:
        self.hash, self.unknown, self.seen = hashlib.sha256(), set[str](), dict[int, tuple[int, object]]()  # values are kept alive, so no id is used twice

    def write(self, *words: object) -> None:
        for word in words:
            text = word if isinstance(word, bytes) else str(word).encode()
            self.hash.update(len(text).to_bytes(8, "little") + text)

    def add(self, value: object) -> None:
        """Add a value; a value that was added before is written as its number."""
        if value is None or value is ... or value is NotImplemented or isinstance(value, PLAIN):
            self.write(type(value).__name__, value if isinstance(value, bytes) else repr(value))
            return
        if id(value) in self.seen:
            self.write("again", self.seen[id(value)][0])
            return
        self.seen[id(value)] = (len(self.seen), value)
        if len(self.seen) > MOST:
            self.unknown.add("more values than are visited")
            return
        for kinds, form in FORMS:
            if isinstance(value, kinds):
                self.write(form.__name__)
                form(self, value)
                return
        self._object(value)

    def _object(self, value: object) -> None:
        kind = type(value)
        if not (kind.__flags__ & MADE_IN_PYTHON and hasattr(value, "__dict__")):
            self.unknown.add(f"{kind.__module__}.{kind.__qualname__}")
            return
        _attributes(self, value)


def _several(walk: _Walk, value: Iterable[object]) -> None:
    walk.write(type(value).__name__)
    for item in value:
        walk.add(item)


def _unordered(walk: _Walk, value: Iterable[object]) -> None:
    found = [identity(item) for item in value]
    walk.write(*sorted(digest for digest, _ in found))
    walk.unknown.update(kind for _, unknown in found for kind in unknown)


def _mapping(walk: _Walk, value: Mapping[object, object]) -> None:
    for name, item in value.items():
        walk.add(name)
        walk.add(item)


def _tensor(walk: _Walk, value: torch.Tensor) -> None:
    if torch.nn.parameter.is_lazy(value):
        walk.write("not initialised yet", value.requires_grad)
    else:
        walk.write(tensor_digest(value), value.requires_grad)


def _array(walk: _Walk, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    if value.dtype.hasobject:
        _several(walk, value.ravel().tolist())
    walk.write(value.dtype, value.shape, b"" if value.dtype.hasobject else value.tobytes())


def _module(walk: _Walk, value: torch.nn.Module) -> None:
    _attributes(walk, value, but=("training",))


def _attributes(walk: _Walk, value: object, but: tuple[str, ...] = ()) -> None:
    walk.add(type(value))
    for name, item in sorted(vars(value).items()):
        if name not in but:
            walk.write(name)
            walk.add(tuple(item.values()) if "_hooks" in name and isinstance(item, Mapping) else item)  # a hook's number depends on other hooks of the process


def _partial(walk: _Walk, value: functools.partial[object]) -> None:
    _several(walk, (value.func, value.args, value.keywords))


def _method(walk: _Walk, value: types.MethodType) -> None:
    _several(walk, (value.__self__, value.__func__))


def _function(walk: _Walk, value: types.FunctionType) -> None:
    walk.write(value.__module__, value.__qualname__)
    if _installed(value.__module__):
        return
    _code(walk, value.__code__)
    closure = [_inside(cell) for cell in value.__closure__ or ()]
    named = {name: value.__globals__[name] for name in sorted(_names(value.__code__)) if name in value.__globals__}
    _several(walk, (value.__defaults__, value.__kwdefaults__, closure, named, vars(value)))


def _code(walk: _Walk, value: types.CodeType) -> None:
    walk.write(value.co_code, value.co_names, value.co_varnames, value.co_argcount, value.co_kwonlyargcount, value.co_flags)
    _several(walk, value.co_consts)


def _class(walk: _Walk, value: type) -> None:
    walk.write(value.__module__, value.__qualname__)
    if not _installed(value.__module__):
        _several(walk, value.__bases__)
        for name, item in sorted(vars(value).items()):
            if name not in SKIPPED:
                walk.write(name)
                walk.add(item)


def _wrapped(walk: _Walk, value: property | staticmethod[..., object] | classmethod[object, ..., object] | functools.cached_property[object]) -> None:
    parts = ("fget", "fset", "fdel", "__func__", "func")
    _several(walk, [getattr(value, part, None) for part in parts])


def _named(walk: _Walk, value: types.BuiltinFunctionType | types.ModuleType) -> None:
    owner = getattr(value, "__self__", None)
    walk.write(getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        walk.add(owner)


def _pattern(walk: _Walk, value: re.Pattern[str]) -> None:
    walk.write(value.pattern, value.flags)


def _member(walk: _Walk, value: Enum) -> None:
    walk.write(type(value).__module__, type(value).__qualname__, value.name)


DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType, types.MethodDescriptorType, types.MethodWrapperType)
FORMS: tuple[tuple[type | tuple[type, ...], Callable[[_Walk, object], None]], ...] = (  # type: ignore[assignment]  # each form fits its kinds
    (Enum, _member),
    (torch.nn.Module, _module),
    (torch.Tensor, _tensor),
    (np.ndarray, _array),
    ((tuple, list, deque), _several),
    ((set, frozenset), _unordered),
    (Mapping, _mapping),
    (functools.partial, _partial),
    (types.MethodType, _method),
    (types.FunctionType, _function),
    (types.CodeType, _code),
    (type, _class),
    ((property, staticmethod, classmethod, functools.cached_property), _wrapped),
    ((types.BuiltinFunctionType, types.ModuleType, *DESCRIPTORS), _named),
    (re.Pattern, _pattern),
)


def _names(code: types.CodeType) -> set[str]:
    """Return the names that a piece of code, or one inside it, looks up."""
    return set(code.co_names).union(*(_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def _inside(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # empty, such as the name of a function while it is being defined
        return None


@functools.cache
def _installed(name: str | None) -> bool:
    """Return whether a module is part of this project, the standard library or an installed package."""
    if name is None or f"{name}.".startswith(OWN) or name.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return name is not None
    file = getattr(sys.modules.get(name), "__file__", None)
    places = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")]
    return file is not None and any(Path(file).resolve().is_relative_to(place) for place in places)
