"""Which classes may be built from a configuration or a file. Imports nothing heavy by itself."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

from poisonbench.core.errors import ConfigError

HOME = Path(__file__).parent.parent.parent  # the folder of the packages; in a clone, of `results/` too
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


def adopt_own_packages() -> None:
    """Import our `attacks` and `defenses`, whatever lies in the working directory.

    Raises:
        ConfigError: another package of that name is already imported.
    """
    for name in ("attacks", "defenses"):
        home = (HOME / name).resolve()
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, home / "__init__.py", submodule_search_locations=[str(home)])
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        elif str(home) not in [str(Path(path).resolve()) for path in sys.modules[name].__path__]:
            raise ConfigError(f"a package called {name} that is not poisonbench's is already imported; rename it or start from another folder")


def check_arguments(plugin: object, method: str, wanted: str) -> None:
    """Refuse a plugin that was written for another version, before its method is called.

    Args:
        plugin: of anybody.
        method: its name.
        wanted: the arguments that it is called with, such as "victim, test, rng".

    Raises:
        ConfigError: the arguments that it takes and those that it needs.
    """
    call = inspect.signature(getattr(plugin, method))
    try:
        call.bind(*wanted.split(", "))
    except TypeError:
        own = f"{type(plugin).__module__}.{type(plugin).__qualname__}"
        taken = ", ".join(call.parameters)
        raise ConfigError(
            f"{own} was written for another version: its {method} takes ({taken}), this version calls {method}({wanted}); CHANGELOG.md says what changed"
        ) from None
