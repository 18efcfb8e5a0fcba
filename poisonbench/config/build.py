"""Build plugins from a tree of plain values with `_target_`s, checked against the fields of the plugins' dataclasses."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Literal, Union, cast

from poisonbench.config.vocabulary import groups
from poisonbench.core.errors import ConfigError, PoisonbenchError, meant
from poisonbench.core.files import File
from poisonbench.core.plugins import OWN, find_class


def targets(tree: object) -> Iterator[str]:
    """Yield every class path that a tree names."""
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield str(tree["_target_"])
        for item in tree.values():
            yield from targets(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from targets(item)


def check_targets(tree: object, trust: str) -> tuple[str, ...]:
    """Refuse every class outside our own packages and the trusted prefix, before anything is imported.

    Returns:
        The prefixes that may be built.

    Raises:
        ConfigError: names the class and the way to allow it.
    """
    allowed = (*OWN, *(prefix if prefix.endswith(".") else f"{prefix}." for prefix in trust.split(",") if prefix))
    for target in targets(tree):
        if not target.startswith(allowed):
            raise ConfigError(
                f"_target_: {target} is outside {', '.join(allowed)}; if you trust its code, add trust={target.split('.')[0]}. on the command line"
            )
    return allowed


def build(tree: object, allowed: tuple[str, ...], where: str) -> object:
    """Build the plugin that `tree` describes.

    Args:
        tree: plain values; a mapping with `_target_` is a dataclass.
        allowed: prefixes of class paths.
        where: the place in the configuration, for messages, such as "attack".

    Raises:
        ConfigError: an unknown or missing field, or a value of the wrong type.
    """
    if not isinstance(tree, Mapping) or "_target_" not in tree:
        return tree
    kind = find_class(str(tree["_target_"]), allowed)
    assert is_dataclass(kind)
    hints = _hints(kind)
    given = {str(name): build(value, allowed, f"{where}.{name}") for name, value in tree.items() if name != "_target_"}
    wanted = {field.name: field for field in fields(kind)}
    for name in given:
        if name not in wanted:
            raise ConfigError(f"{where}.{name}: {kind.__name__} has no such field; {meant(name, wanted)}")
    missing = [name for name, field in wanted.items() if name not in given and field.default is MISSING and field.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{where}: {kind.__name__} needs {', '.join(missing)}")
    return kind(**{name: fitted(value, hints[name], f"{where}.{name}") for name, value in given.items()})


@functools.cache
def _hints(kind: type) -> Mapping[str, object]:
    return typing.get_type_hints(kind)


def fitted(value: object, hint: object, where: str) -> object:
    """Return `value` as the type `hint`; lists become tuples, whole numbers floats, paths files.

    Raises:
        ConfigError: a value of another type.
    """
    if typing.get_origin(hint) in (Union, types.UnionType):
        return _one_of(value, typing.get_args(hint), where)
    if typing.get_origin(hint) is Literal:
        choices = [str(choice) for choice in typing.get_args(hint)]
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where}={_brief(value)}: {meant(_brief(value), choices)}")
        return value
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}={_brief(value)}: give a list, such as {'[one,two]' if inner is str else '[1,2]'}")
        return tuple(fitted(item, inner, f"{where}[{place}]") for place, item in enumerate(value))
    return _plain(value, hint, where)


def _one_of(value: object, options: tuple[object, ...], where: str) -> object:
    if value is None and type(None) in options:
        return None
    (option,) = [option for option in options if option is not type(None)]
    return fitted(value, option, where)


def _plain(value: object, hint: object, where: str) -> object:
    if value is None and hint is not object:
        raise ConfigError(f"{where}: give {_named(hint)}, not nothing")
    if hint is File and isinstance(value, str):
        return _file(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, int, float, str):
        kind = cast("type", hint)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(
                f"{where}={_brief(value)}: give {_named(kind)}, not {'a fraction' if kind is int and isinstance(value, float) else _named(type(value))}"
            )
    elif is_dataclass(hint) and not isinstance(value, cast("type", hint)):
        raise ConfigError(f"{where}: {cast('type', hint).__name__} is needed, not {_brief(value)}")
    elif getattr(hint, "_is_protocol", False) and isinstance(value, bool | int | float | str | list | dict):
        name = cast("type", hint).__name__
        if isinstance(value, dict):
            raise ConfigError(
                f"{where}: a {name} is needed, but what was chosen sets {_brief(', '.join(value)) or 'nothing'}; choose one that is a {name} alone"
            )
        quoted = _brief(value)
        advice = f"choose one of a group, as in +{name.lower()}@{where}={quoted}" if name.lower() in groups() else f"name its class with {where}._target_=CLASS"
        raise ConfigError(f"{where}={quoted}: a {name} is needed, not {_named(type(value))}; {advice}")
    elif lacking := [member for member in _members(hint) if not hasattr(value, member)]:
        raise ConfigError(f"{where}: {type(value).__name__} is no {cast('type', hint).__name__}; it has no {', '.join(lacking)}")
    return value


def _file(path: str, where: str) -> File:
    try:
        return File(path)
    except PoisonbenchError as error:
        raise ConfigError(f"{where}: {error}") from error


def _brief(value: object, most: int = 60) -> str:
    """Return a value for a message; of a long one its beginning."""
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _members(hint: object) -> list[str]:
    """Return the names of the attributes of a protocol, sorted; none if `hint` is no protocol."""
    asked = [vars(base) for base in getattr(hint, "__mro__", ()) if vars(base).get("_is_protocol")]
    names = {name for base in asked for name in (*base, *base.get("__annotations__", ()))}
    return sorted(name for name in names if name == "__call__" or not name.startswith("_"))


def _named(kind: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing", list: "a list"}
    return names.get(kind, f"a {getattr(kind, '__name__', kind)}") if isinstance(kind, type) else f"a {kind}"
