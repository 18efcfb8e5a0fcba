"""Which classes may be built from a configuration or a file. Imports nothing heavy by itself."""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module

from poisonbench.core.errors import ConfigError

OWN = ("poisonbench.", "attacks.", "defenses.")


def find_class(path: str, trusted: tuple[str, ...]) -> type:
    """Import a dataclass by its path, which must start with a trusted prefix.

    Raises:
        ConfigError: a path without a trusted prefix, or something that is not a dataclass.
    """
    if not path.startswith(trusted):
        raise ConfigError(f"{path} is outside {', '.join(trusted)}; name its package on the command line with trust=PREFIX. to allow it")
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise ConfigError(f"{path} is not a dataclass; plugins are frozen dataclasses")
    return kind
