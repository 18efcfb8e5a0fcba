"""poisonbench: data poisoning attacks and defenses, measured under one threat model. Imports nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poisonbench.api import own_questions as own_questions
    from poisonbench.api import own_task as own_task
    from poisonbench.api import run as run

    __version__: str

__all__ = ["own_questions", "own_task", "run"]


def __getattr__(name: str) -> object:
    """Import the Python interface, or look up the version, when it is first used."""
    if name == "__version__":
        return import_module("poisonbench.storage.record").version()
    if name not in __all__:
        raise AttributeError(f"module 'poisonbench' has no attribute {name!r}")
    return getattr(import_module("poisonbench.api"), name)
