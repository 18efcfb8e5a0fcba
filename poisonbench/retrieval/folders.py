"""Folders with models of the user."""

from __future__ import annotations

import os
from pathlib import Path

from poisonbench.core.errors import ConfigError

SAFE = ".safetensors"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def model_folder(root: str | None, where: str, needs: str, instead: str) -> Path:
    """Return a folder that has weights which can be read without running code.

    Args:
        root: its path; variables such as $DATA are expanded. None: none is named.
        where: the key that names it, such as "reader.root".
        needs: the files that it needs, in words.
        instead: options that need no folder, in words.

    Raises:
        ConfigError: there is no such folder, or its weights are pickled or missing.
    """
    if root is None:
        raise ConfigError(f"no model is named; name a folder of your own with {where}=PATH, which has {needs}, or use {instead}")
    folder = Path(os.path.expandvars(root)).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{where}={root} is no folder; give one with {needs}")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if not any(path.suffix == SAFE for path in files):
        if pickled := next((path for path in files if path.suffix in PICKLED), None):
            raise ConfigError(f"{pickled} holds pickled weights, which can run code when they are read; save them as model{SAFE}")
        raise ConfigError(f"{where}={root} has no *{SAFE}; give a folder with {needs}")
    return folder
