"""`doctor`: check whether poisonbench can run on this machine, and what it would use."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from poisonbench.commands.usage import Usage
from poisonbench.config.setting import Setting
from poisonbench.core.plugins import adopt_own_packages

USAGE = Usage(call="doctor", does="Check whether poisonbench can run here, and show what it would use; exit code 1 if a check fails.", options={})


def main(words: Sequence[str]) -> int:
    """Print one line per check; return 1 if any fails."""
    checks: dict[str, Callable[[], str]] = {
        "python": _python,
        "torch": _torch,
        "torchvision": _torchvision,
        "device": _device,
        "packages": _packages,
        "results_dir": _results,
        "tracker": _tracker,
    }
    table, failed = Table("check", "", "found"), 0
    for name, check in checks.items():
        try:
            table.add_row(name, "ok", check())
        except Exception as error:  # noqa: BLE001  # every failure is a line of the table
            failed = 1
            table.add_row(name, "FAILED", f"{type(error).__name__}: {error}")
    Console().print(table)
    return failed


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise RuntimeError(f"this is Python {version}; poisonbench runs on 3.11 to 3.13")
    return version


def _torch() -> str:
    import torch

    return torch.__version__


def _torchvision() -> str:
    from importlib.metadata import version

    from poisonbench.tasks.images import torchvision_sets

    torchvision_sets()
    return version("torchvision")


def _device() -> str:
    import torch

    from poisonbench.learn.device import has_bf16, resolve

    place = resolve("auto")
    return f"{place}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, native bfloat16: {'yes' if has_bf16(place) else 'no'}"


def _packages() -> str:
    adopt_own_packages()
    return "attacks and defenses are poisonbench's own"


def _results() -> str:
    places = Setting.of([]).places
    nearest = next(parent for parent in (places.results.absolute(), *places.results.absolute().parents) if parent.exists())
    return f"{places.results}, {shutil.disk_usage(nearest).free / 1e9:.0f} GB free"


def _tracker() -> str:
    from importlib.metadata import version

    return f"wandb {version('wandb')}, {os.environ.get('WANDB_MODE', 'offline unless tracker.mode=online')}; none unless tracker=wandb"
